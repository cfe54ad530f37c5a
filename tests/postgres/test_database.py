"""Specific to the processed store in PostgreSQL: values, shared partitions, outages, connections."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.helpers import wait_until
from tests.postgres_server import PASSWORD, Server, throwaway
from tests.reading.test_store import ANN, SENSORS, ann, buzz, chunk, lines
from tests.stores import PostgresPlace, open_store
from utils.app.config import StoreUrl, processed_store_url
from utils.app.errors import PositionMoved, StoreUnavailable, ToolkitError
from utils.clients import postgres as client
from utils.reading.database import PostgresDatabase
from utils.reading.follow import StateLog
from utils.reading.store import ProcessedStore, Stored
from utils.reading.tracker import Counts
from utils.records.codec import Field
from utils.records.stream import BUZZ, Stream

pytestmark = [pytest.mark.full, pytest.mark.postgres]


@pytest.fixture
def place(postgres: Server) -> PostgresPlace:
    return PostgresPlace(postgres)


@pytest.fixture
def store(place: PostgresPlace) -> Iterator[ProcessedStore]:
    with closing(open_store(place, BUZZ)) as opened:
        yield opened


class TestValues:
    def test_u0000_in_text_columns(self, store: ProcessedStore, place: PostgresPlace) -> None:
        read = buzz(("odd\0-1", 1), author="c\0", message="a\0b")
        assert len(store.add(chunk("", "1", read)).new) == 1
        assert store.add(chunk("1", "2", read)).new == []
        line = BUZZ.codec.encode(read[0]).decode()
        assert place.ask("SELECT producer_id, name, record FROM records") == [("odd\ufffd-1", "c\ufffd", line)]

    def test_a_question_mark_in_a_statement_without_values(self, store: ProcessedStore) -> None:
        assert store.database.query("SELECT 'why?'") == [("why?",)]

    def test_means_and_sums_are_numbers(self, place: PostgresPlace) -> None:
        stream = Stream("n", by="a", value="n", fields=(Field("a", "text"), Field("n", "integer")))
        with closing(open_store(place, stream)) as store:
            store.add(chunk("", "1", lines(stream, b'{"a":"x","n":1}', b'{"a":"x","n":2}')))
            ((_, _, mean, _),) = store.summary()
            assert (type(mean), mean) == (float, 1.5)
            assert {type(value) for value in store.counts().items().values()} == {int}


class TestSharing:
    def test_two_machines_that_open_a_new_store_at_once(self, place: PostgresPlace) -> None:
        failed: list[BaseException] = []

        def open_and_close() -> None:
            try:
                open_store(place, SENSORS).close()
            except BaseException as error:  # noqa: BLE001 (reported below)
                failed.append(error)

        threads = [threading.Thread(target=open_and_close) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert place.ask("SELECT name FROM facts ORDER BY 1") == [("roles",), ("version",)]

    def test_a_schema_that_another_machine_is_creating_is_waited_for(self, place: PostgresPlace) -> None:
        waiting = (
            f"SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE '%{place.schema}'"
        )
        opened: list[ProcessedStore] = []
        with psycopg.connect(place.url.text) as other:
            other.execute("SELECT pg_advisory_xact_lock(hashtext('processed store'))")
            other.execute(f'CREATE SCHEMA "{place.schema}"'.encode())
            thread = threading.Thread(target=lambda: opened.append(open_store(place, BUZZ)))
            thread.start()
            wait_until(lambda: place.ask(waiting))
        thread.join()
        opened.pop().close()

    def test_a_partition_that_another_holds_is_unavailable_for_a_while(
        self, store: ProcessedStore, place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.add(chunk("", "1", ann(1, 1)))
        monkeypatch.setattr(client, "LOCK_S", 0.2)
        with closing(open_store(place, BUZZ)) as other, psycopg.connect(place.url.text) as holder:
            holder.execute(f'UPDATE "{place.schema}".partitions SET position = position')
            with pytest.raises(StoreUnavailable, match="lock timeout"):
                other.add(chunk("1", "2", ann(2, 2)))
            holder.rollback()
            assert len(other.add(chunk("1", "2", ann(2, 2))).new) == 1

    def test_a_consumer_frozen_in_a_transaction_loses_its_partition(
        self, store: ProcessedStore, place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It stores nothing when it continues."""

        def freeze(stored: Stored) -> None:
            held.set()
            assert done.wait(20)

        held, done = threading.Event(), threading.Event()
        monkeypatch.setattr(client, "IDLE_S", 1)
        found: list[BaseException] = []
        with closing(open_store(place, BUZZ)) as frozen:

            def add() -> None:
                try:
                    frozen.add(chunk("", "1", ann(1, 3)), freeze)
                except StoreUnavailable as error:
                    found.append(error)

            thread = threading.Thread(target=add)
            thread.start()
            assert held.wait(10)
            assert len(store.add(chunk("", "1", ann(1, 2))).new) == 2
            done.set()
            thread.join()
            assert len(found) == 1
            with pytest.raises(PositionMoved):
                frozen.add(chunk("", "1", ann(1, 3)))
        assert store.counts() == Counts(records=2)

    def test_an_idle_store_has_no_open_transaction(self, place: PostgresPlace) -> None:
        """No transaction stays open after a query: the server would end it, and the connection, after a while."""
        query = f"SELECT state FROM pg_stat_activity WHERE application_name = 'processed store {place.schema}'"
        with closing(open_store(place, BUZZ)) as store:
            store.add(chunk("", "1", ann(1, 2)))
            assert store.database.query("SELECT COUNT(*) FROM page") == [(0,)]
            assert place.ask(query) == [("idle",)]
        wait_until(lambda: not place.ask(query))

    def test_another_version(self, store: ProcessedStore, place: PostgresPlace) -> None:
        with psycopg.connect(place.url.text) as connection:
            update = f"UPDATE \"{place.schema}\".facts SET value = '99' WHERE name = 'version'"
            connection.execute(update.encode())
        with pytest.raises(ToolkitError, match="written by another version") as raised:
            open_store(place, BUZZ)
        assert raised.value.exit_code == 2

    @pytest.mark.parametrize("group", ["g" * 64, "é" * 32, "pg_group"])
    def test_a_group_that_cannot_name_a_schema(self, place: PostgresPlace, group: str) -> None:
        with pytest.raises(ToolkitError, match="name for the group"):
            PostgresDatabase(place.url, group)


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, though perhaps nobody has asked for its exit code."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class TestAway:
    @pytest.mark.parametrize("how", ["SIGINT", "SIGQUIT", "SIGKILL"])
    def test_a_restart_between_transactions(self, server: Server, how: str, logged: list[str]) -> None:
        place = PostgresPlace(server)
        with closing(open_store(place, BUZZ)) as store:
            store.add(chunk("", "1", ann(1, 200)))
            ((serving,),) = store.database.query("SELECT pg_backend_pid()")
            if how == "SIGKILL":
                server.kill()
                wait_until(lambda: has_ended(serving))  # it may serve one more statement after its parent's death
            else:
                server.stop(getattr(signal, how))
            states = StateLog()
            for _ in range(3):
                with pytest.raises(StoreUnavailable) as raised:
                    store.add(chunk("1", "2", ann(201, 400)))
                states.trouble(raised.value)
            assert len([line for line in logged if line.endswith("; waiting")]) == 1
            server.start_again()
            assert len(store.add(chunk("1", "2", ann(201, 400))).new) == 200
            assert store.counts() == Counts(records=400)

    @pytest.mark.parametrize("statement", ["INSERT INTO records", "COMMIT"])
    def test_a_connection_that_is_lost_in_a_transaction(
        self, place: PostgresPlace, monkeypatch: pytest.MonkeyPatch, statement: str
    ) -> None:
        """If it is unknown whether the transaction was committed, the stored position shows it."""
        with closing(open_store(place, BUZZ)) as store:
            store.add(chunk("", "1", ann(1, 2)))
            execute, leave = psycopg.Connection.execute, psycopg.Transaction.__exit__

            def lose(connection: Any) -> None:
                connection.pgconn.finish()
                raise psycopg.OperationalError("server closed the connection unexpectedly")

            def at_statement(connection: Any, query: Any, *rest: Any, **more: Any) -> Any:
                text = query.decode() if isinstance(query, bytes) else str(query)
                return lose(connection) if text.startswith(statement) else execute(connection, query, *rest, **more)

            def after_commit(transaction: Any, *error: Any) -> None:
                leave(transaction, *error)
                lose(transaction.connection)

            with monkeypatch.context() as patched, pytest.raises(StoreUnavailable, match="unexpectedly"):
                if statement == "COMMIT":
                    patched.setattr(psycopg.Transaction, "__exit__", after_commit)
                else:
                    patched.setattr(psycopg.Connection, "execute", at_statement)
                store.add(chunk("1", "2", ann(3, 4)))
            if statement == "COMMIT":
                assert store.resume("live") == "2"
            else:
                assert (store.resume("live"), store.counts().records) == ("1", 2)
                store.add(chunk("1", "2", ann(3, 4)))
            assert store.counts() == Counts(records=4)

    def test_the_library_logs_nothing(
        self, place: PostgresPlace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def lost(copy: Any, row: Any) -> None:
            copy.connection.pgconn.finish()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

        with closing(open_store(place, BUZZ)) as store, monkeypatch.context() as patched:
            patched.setattr(psycopg.Copy, "write_row", lost)
            with pytest.raises(StoreUnavailable, match="unexpectedly"):
                store.add(chunk("", "1", ann(1, 1)))
        assert not caplog.records

    @pytest.mark.parametrize("hosts", ["127.0.0.1:1", "127.0.0.1:1,127.0.0.1:2"])
    def test_a_server_that_is_not_started_yet_is_unavailable(self, place: PostgresPlace, hosts: str) -> None:
        place.url = StoreUrl(f"postgresql://ann:secret@{hosts}/x", "there")
        with pytest.raises(StoreUnavailable, match=r"^PostgreSQL at there: Connection refused") as raised:
            open_store(place, BUZZ)
        assert "secret" not in str(raised.value) and "\n" not in str(raised.value)

    def test_a_server_that_does_not_answer_is_unavailable(
        self, place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "CONNECT_S", 2)
        with socket.create_server(("127.0.0.1", 0)) as mute:
            place.url = StoreUrl(f"postgresql://ann:secret@127.0.0.1:{mute.getsockname()[1]}/x", "there")
            with pytest.raises(StoreUnavailable, match=r"there: .*timeout"):
                open_store(place, BUZZ)


def tls(server: Server, folder: Path) -> Path:
    """Turn TLS on with a certificate for 127.0.0.1; return the file of the CA that signed it."""
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1")
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-sha256"]
    for command in (
        [*new, "-x509", "-days", "2", "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem"],
        [*new, "-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr"],
        ["openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
         "-days", "2", "-extfile", "san", "-out", "server.crt"],
    ):  # fmt: skip
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    for name in ("server.key", "server.crt"):
        path = Path(shutil.copy(folder / name, server.data))
        owner = server.data.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
        path.chmod(0o600)
    server.configure("ssl = on")
    server.stop()
    server.start()
    return folder / "ca.pem"


@pytest.mark.parametrize(
    ("name", "heals"),
    [
        ("DeadlockDetected", True), ("SerializationFailure", True), ("AdminShutdown", True), ("DiskFull", True),
        ("TooManyConnections", True), ("ReadOnlySqlTransaction", True), ("LockNotAvailable", True),
        ("IdleInTransactionSessionTimeout", True), ("CannotConnectNow", True),
        ("InsufficientPrivilege", False), ("UndefinedTable", False), ("NotNullViolation", False),
        ("NumericValueOutOfRange", False), ("ProgramLimitExceeded", False), ("UntranslatableCharacter", False),
        ("FeatureNotSupported", False),
    ],
)  # fmt: skip
def test_errors_that_can_heal(name: str, heals: bool) -> None:
    with pytest.raises(ToolkitError, match="here: some reason") as raised, client.mapped_errors(StoreUrl("", "here")):
        raise getattr(psycopg.errors, name)("some\nreason")
    assert isinstance(raised.value, StoreUnavailable) == heals


@pytest.fixture
def own_server(postgres: Server) -> Iterator[Server]:
    """A server whose settings a test may change; `postgres` skips the test if there are no programs."""
    with closing(throwaway()) as server:
        yield server


class TestConnecting:
    def test_tls(self, own_server: Server, tmp_path: Path) -> None:
        text, place = own_server.url, PostgresPlace(own_server)
        place.url = StoreUrl(f"{text}?sslmode=require", "here")
        with pytest.raises(ToolkitError, match="does not support SSL") as raised:
            open_store(place, BUZZ)
        assert raised.value.exit_code == 2
        ca = tls(own_server, tmp_path)
        place.url = StoreUrl(f"{text}?sslmode=verify-full&sslrootcert={ca}", "here")
        with closing(open_store(place, BUZZ)) as store:
            assert len(store.add(chunk("", "1", ann(1, 1))).new) == 1
        other = tmp_path / "server.crt"
        for bad, word in ((other, "certificate verify failed"), (tmp_path / "none.pem", "does not exist")):
            place.url = StoreUrl(f"{text}?sslmode=verify-full&sslrootcert={bad}", "here")
            with pytest.raises(ToolkitError, match=word) as raised:
                open_store(place, BUZZ)
            assert (raised.value.exit_code, PASSWORD in str(raised.value)) == (2, False)

    @pytest.mark.parametrize(
        ("old", "new", "word"),
        [
            (PASSWORD, "wrong-word", "password authentication failed"),
            (f":{PASSWORD}", "", "no password supplied"),
            ("ann:", "bob:", "password authentication failed"),
            ("/postgres", "/nowhere", "does not exist"),
            ("/postgres", "/postgres?nonsense=1", "nonsense"),
            ("/postgres", "/postgres?sslmode=no", "sslmode"),
            ("/postgres", "/postgres?channel_binding=require", "channel binding"),
        ],
    )
    def test_errors_that_only_the_user_can_fix(self, postgres: Server, old: str, new: str, word: str) -> None:
        url = processed_store_url({"PROCESSED_STORE_URL": postgres.url.replace(old, new)})
        assert url
        with pytest.raises(ToolkitError, match=word) as raised:
            ProcessedStore(PostgresDatabase(url, "x"), BUZZ)
        assert raised.value.exit_code == 2
        assert not [text for text in (PASSWORD, "wrong-word") if text in str(raised.value) or text in repr(url)]

    def test_without_psycopg(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "psycopg", None)
        url = StoreUrl("postgresql://ann:secret@127.0.0.1:1/x", "127.0.0.1:1/x")
        with pytest.raises(ToolkitError, match=r"needs psycopg: pip install 'psycopg\[binary\]'") as raised:
            ProcessedStore(PostgresDatabase(url, "x"), BUZZ)
        assert raised.value.exit_code == 2

    def test_an_environment_that_asks_for_another_encoding(
        self, place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as environment, closing(open_store(place, BUZZ)) as store:
            environment.setenv("PGCLIENTENCODING", "LATIN1")
            store.database.close()
            store.add(chunk("", "1", buzz((ANN, 1), message="∆")))
        assert place.ask("SELECT record::json ->> 'message' FROM records") == [("∆",)]

    def test_a_user_without_rights(self, postgres: Server, place: PostgresPlace) -> None:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("CREATE ROLE guest LOGIN PASSWORD 'guest-word'")
            connection.execute("CREATE DATABASE closed")
            connection.execute("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
        text = postgres.url.replace(f"ann:{PASSWORD}", "guest:guest-word")
        for address, of in ((text, "database postgres"), (text.replace("/postgres", "/closed"), 'database "closed"')):
            place.url = replace(place.url, text=address)
            with pytest.raises(ToolkitError, match=f"permission denied for {of}") as raised:
                open_store(place, BUZZ)
            assert raised.value.exit_code == 2

    def test_a_user_without_the_right_to_create_uses_an_existing_schema(
        self, postgres: Server, place: PostgresPlace
    ) -> None:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("CREATE ROLE lodger LOGIN PASSWORD 'guest-word'")
            connection.execute(f'CREATE SCHEMA "{place.schema}" AUTHORIZATION lodger'.encode())
        place.url = replace(place.url, text=postgres.url.replace(f"ann:{PASSWORD}", "lodger:guest-word"))
        with closing(open_store(place, BUZZ)) as store:
            assert len(store.add(chunk("", "1", ann(1, 2))).new) == 2

    def test_a_server_that_does_not_let_this_machine_in(self, own_server: Server) -> None:
        (own_server.data / "pg_hba.conf").write_text("host all all all reject\n")
        own_server.stop()
        own_server.start()
        with pytest.raises(ToolkitError, match=r"pg_hba\.conf rejects") as raised:
            open_store(PostgresPlace(own_server), BUZZ)
        assert raised.value.exit_code == 2
