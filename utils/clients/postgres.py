"""Connections to PostgreSQL, and the mapping of its errors."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from utils.app.config import StoreUrl
from utils.app.errors import StoreUnavailable, ToolkitError

if TYPE_CHECKING:
    from psycopg import Connection

CONNECT_S, LOCK_S, IDLE_S = 5, 5, 10
MOST_NAME_BYTES = 63

# Parts of messages about what only the user can fix. If they are in another language, the consumer waits and logs them.
_PERMANENT = (
    "authentication failed", "no password supplied", "does not exist", "pg_hba.conf", "certificate",
    "does not support SSL", "permission denied", "sslmode", "channel binding",
)  # fmt: skip
_PERMANENT_CLASSES = ("22", "23", "2F", "42", "54", "0A")  # values, constraints, syntax and rights, limits, features


def import_psycopg() -> Any:
    """Import and return psycopg. Raises ToolkitError if it is not installed."""
    try:
        import psycopg
    except ImportError as error:
        raise ToolkitError("PROCESSED_STORE_URL needs psycopg: pip install 'psycopg[binary]'") from error
    return psycopg


@contextmanager
def mapped_errors(url: StoreUrl) -> Iterator[None]:
    """Map psycopg's errors: StoreUnavailable if the error can heal, else ToolkitError. No message has the password."""
    psycopg = import_psycopg()
    try:
        yield
    except psycopg.Error as error:
        reason, state = _reason(error), error.sqlstate or ""
        can_heal = isinstance(error, psycopg.OperationalError) and not any(each in reason for each in _PERMANENT)
        is_permanent = state[:2] in _PERMANENT_CLASSES if state else not can_heal
        raise (ToolkitError if is_permanent else StoreUnavailable)(f"PostgreSQL at {url.place}: {reason}") from None


def _reason(error: Exception) -> str:
    """Return the error of the last attempt to connect in one line, without the address, which `mapped_errors` adds."""
    return " ".join(str(error).split()).rpartition(" failed: ")[2]


def connect(url: StoreUrl, schema: str) -> "Connection[Any]":
    """Open a connection in autocommit mode whose tables are in `schema`, which is created if it is missing.

    The server ends a transaction that is idle for IDLE_S, which releases its locks, and a statement that waits for a
    lock for LOCK_S. Raises like `mapped_errors`, and ToolkitError if psycopg is not installed.
    """
    psycopg = import_psycopg()
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # it raises what it logs
    with mapped_errors(url):
        connection: Connection[Any] = psycopg.connect(
            url.text,
            autocommit=True,
            client_encoding="UTF8",  # whatever the server or PGCLIENTENCODING has set
            connect_timeout=CONNECT_S,
            application_name=f"processed store {schema}",
            tcp_user_timeout=IDLE_S * 1000,
            keepalives_idle=IDLE_S,
            keepalives_interval=max(1, IDLE_S // 3),
            keepalives_count=3,
        )
        connection.execute(f"SET lock_timeout = '{LOCK_S}s'")
        connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_S}s'")
        name = psycopg.sql.Identifier(schema)
        known = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchall()
        if not known:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(hashtext('processed store'))")
                connection.execute(psycopg.sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
        connection.execute(psycopg.sql.SQL("SET search_path = {}").format(name))
    return connection
