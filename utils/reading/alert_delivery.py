"""Delivery of stored alerts to the log, alerts.jsonl and a command or webhook, each at least once."""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import msgspec
from loguru import logger

from utils.app.errors import ToolkitError, Unavailable
from utils.clients import files
from utils.clients.line_file import ends_with_newline
from utils.reading.alerts import NO_RECORD, Clock
from utils.reading.database import Database
from utils.reading.follow import StateLog
from utils.records.instants import instant_text

ATTEMPT_S = 10.0  # timeout of a send; meanwhile the next alerts are neither logged nor appended
LEASE_S = 60.0  # of a claimed alert: longer than an attempt can take
POLL_S = 0.2
RETRY_CAP_S, MAX_ATTEMPTS = 300.0, 300  # attempts of about a day; then an alert waits for the next start
_DUE = """SELECT id, alert, name, event_us, record, attempts, due_us FROM alerts WHERE due_us <= ? AND attempts < ?
    ORDER BY due_us, stored_us LIMIT 1"""
_CLAIM = "UPDATE alerts SET due_us = ?, attempts = attempts + 1 WHERE id = ? AND due_us = ?"

Send = Callable[[str, bytes], None]
"""Callback that delivers an alert (id, JSON) within about 10 s, or raises Unavailable."""
Claimed = tuple[str, int, bytes]
"""Id of an alert, number of attempts before, and its JSON line."""


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow no redirect: it would turn the POST into a GET without the alert."""


def send_to(target: str) -> Send:
    """Return the callback for a webhook (`http[s]://...`) or a command. Raises ToolkitError if `target` is neither."""
    if target.startswith(("http://", "https://")):
        if not urlsplit(target).hostname:
            raise ToolkitError(f"--then {target}: this address names no host")
        return lambda id, alert: _post(target, id, alert)
    try:
        words = shlex.split(target, posix=os.name == "posix")
    except ValueError as error:
        raise ToolkitError(f"--then {target}: {error}") from error
    if not words or "://" in words[0]:
        raise ToolkitError(f"--then {target}: this is neither a command nor an address (http://..., https://...)")
    if not shutil.which(name := words[0].strip('"')):
        raise ToolkitError(f"--then {target}: there is no command {name}")
    # On Windows a program gets its command line as one text and splits it itself.
    return lambda id, alert: _execute(words if os.name == "posix" else target, name, alert)


def _post(url: str, id: str, alert: bytes) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": id}
    host = urlsplit(url).hostname  # for errors: the path of a webhook is often a secret
    try:
        with build_opener(_NoRedirect).open(Request(url, alert, headers), timeout=ATTEMPT_S):
            return
    except HTTPError as error:
        error.close()
        raise Unavailable(f"the webhook at {host} answers {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise Unavailable(f"the webhook at {host} does not answer: {getattr(error, 'reason', error)}") from error


def _execute(command: str | Sequence[str], name: str, alert: bytes) -> None:
    """Run a command with the alert on its standard input. Its output goes to our standard error."""
    try:
        done = subprocess.run(command, input=alert, stdout=2, timeout=ATTEMPT_S, start_new_session=True, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{name} took over {ATTEMPT_S:g} s and was ended") from error
    except OSError as error:
        raise Unavailable(f"{name} cannot be started: {error}") from error
    if done.returncode:
        raise Unavailable(f"{name} ended with exit code {done.returncode}")


class AlertDelivery:
    """The delivery of a store's alerts, in a thread with a connection of its own.

    An alert, with the fields of `about`, is logged and appended to `path`, then sent. A failed send is tried again
    after 1, 2, 4, up to 300 s, and at once by a new run. Copies share the work; a killed one loses its claims in 60 s.
    """

    def __init__(
        self, database: Database, about: dict[str, str], path: Path, send: Send | None, clock: Clock = time.time
    ) -> None:
        self._database, self._about, self._path, self._send, self._clock = database, about, path, send, clock
        self._states, self._ended = StateLog(), Event()
        self._thread = Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            if not self.step():
                self._ended.wait(POLL_S)

    def close(self) -> None:
        """Stop the thread; one that still waits for a receiver is left behind."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(2 * POLL_S)
        if not self._thread.is_alive():
            self._database.close()

    def step(self) -> bool:
        """Deliver the next alert that is due, or note when to try it again. Return whether there was one."""
        try:
            if (claimed := self._claim()) is None:
                return False
            id, attempts, line = claimed
            due_us = None
            try:
                if self._send is not None:
                    self._send(id, line)
                self._states.healthy("alerts are delivered")
            except Unavailable as error:
                self._states.trouble(error)
                due_us = round((self._clock() + min(2.0**attempts, RETRY_CAP_S)) * 1e6)
            with self._database.transaction():
                self._database.execute("UPDATE alerts SET due_us = ? WHERE id = ?", due_us, id)
        except ToolkitError as error:  # only logged: the consumer, which has the same store, ends if it cannot heal
            self._states.trouble(error)
            return False
        return True

    def _claim(self) -> Claimed | None:
        """Claim the next alert that is due; None if there is none, or another copy claimed it.

        Its line is appended to the file within the transaction of the claim, so a kill before the commit repeats it.
        """
        now_us = round(self._clock() * 1e6)
        if not (due := self._database.query(_DUE, now_us, MAX_ATTEMPTS)):
            return None
        ((id, alert, name, event_us, record, attempts, due_us),) = due
        at = None if event_us is None else instant_text(event_us)
        about = {"id": id, **self._about, "alert": alert, "name": name, "time": at}
        line = msgspec.json.encode(about | {"record": msgspec.Raw(record)}) + b"\n"
        with self._database.transaction():
            if self._database.execute(_CLAIM, now_us + round(LEASE_S * 1e6), id, due_us).rowcount != 1:
                return None
            if not attempts:
                with files.mapped_errors(self._path):
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    with self._path.open("a+b") as stream:  # a full disk may have left a partial line
                        stream.write(line if ends_with_newline(stream.fileno()) else b"\n" + line)
                        stream.flush()
                        files.sync(stream.fileno())  # before the commit, or a power cut may lose the line
                    files.sync_path(self._path.parent)
        if not attempts:
            cause = (at, record) if record != NO_RECORD else ("nothing since", at)
            logger.warning("{}", " ".join(filter(None, (f"alert {alert}:", name, *cause))))
        return id, attempts, line
