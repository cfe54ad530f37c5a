"""Stored alerts on their way to people and programs: log, alerts.jsonl, a command or a webhook, each at least once."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import msgspec
from loguru import logger

from utils.app.errors import ToolkitError, Unavailable
from utils.reading.database import Database
from utils.records.codec import instant_text

ATTEMPT_S, BATCH_S, BATCH = 10.0, 10.0, 20
LEASE_S = 60.0  # more than a batch can take: until then no other copy tries its alerts
RETRY_CAP_S, MAX_ATTEMPTS = 300.0, 300  # about a day; then an alert waits for the next start
_DUE = f"""SELECT id, alert, name, event_us, record, attempts, due_us FROM alerts WHERE due_us <= ? AND attempts < ?
    ORDER BY due_us, stored_us LIMIT {BATCH}"""
_CLAIM = "UPDATE alerts SET due_us = ?, attempts = attempts + 1 WHERE id = ? AND due_us = ?"
_DONE = "UPDATE alerts SET due_us = ? WHERE id = ?"
_COUNT = "SELECT COUNT(*), COUNT(due_us) FROM alerts"

Send = Callable[[str, bytes], None]
"""Delivers an alert (id, JSON) within about 10 s, or raises Unavailable."""
Claimed = tuple[str, int, bytes]
"""Id, number of the attempt, JSON line of the alert."""
Outcome = tuple[str, int, str]
"""Id, number of the attempt, and why it failed."""


class _NoRedirect(HTTPRedirectHandler):
    """Following a redirect would turn the POST into a GET without the alert."""

    def redirect_request(self, *_: Any) -> None:
        return None


def send_to(target: str) -> Send:
    """What delivers to a webhook (`http://...`, `https://...`) or else a command. Raises ToolkitError."""
    if target.startswith(("http://", "https://")):
        if not urlsplit(target).hostname:
            raise ToolkitError(f"--then {target}: this address names no host")
        return lambda id, alert: _post(target, id, alert)
    if not target.strip() or "://" in target.split(maxsplit=1)[0]:
        raise ToolkitError(f"--then {target}: this is neither a command nor an address (http://..., https://...)")
    if os.name == "nt":  # a program gets its command line as one text there and takes it apart itself
        return lambda id, alert: _execute(target, target, alert)
    try:
        words = shlex.split(target)
    except ValueError as error:
        raise ToolkitError(f"--then {target}: {error}") from error
    return lambda id, alert: _execute(words, words[0], alert)


def _post(url: str, id: str, alert: bytes) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": id}
    host = urlsplit(url).hostname  # its path is often a secret
    try:
        with build_opener(_NoRedirect).open(Request(url, alert, headers), timeout=ATTEMPT_S):
            return
    except HTTPError as error:
        error.close()
        raise Unavailable(f"the webhook at {host} answers {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise Unavailable(f"the webhook at {host} does not answer: {getattr(error, 'reason', error)}") from error


def _execute(command: str | Sequence[str], name: str, alert: bytes) -> None:
    """Run a command with the alert on its standard input; what it prints goes to our standard error."""
    alone = os.name == "posix"  # a group of its own, so that its children end with it
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, start_new_session=alone)
    except (OSError, ValueError) as error:
        raise Unavailable(f"{name} cannot be started: {error}") from error
    try:
        process.communicate(alert, timeout=ATTEMPT_S)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{name} took over {ATTEMPT_S:g} s and was ended") from error
    finally:
        if process.poll() is None:
            if alone:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
    if process.returncode:
        raise Unavailable(f"{name} ended with exit code {process.returncode}")


class AlertDelivery:
    """Delivers what a store contains; sending has a thread of its own, everything else happens in `step`.

    An alert is logged and appended to `path` once it is stored, then sent. What fails is tried again after 1, 2, 4,
    up to 300 s. A new run tries everything at once. Several copies share the work; an alert of a copy that was killed
    is taken over after a minute. `about` is what every alert also has.
    """

    def __init__(
        self,
        database: Database,
        about: dict[str, str],
        path: Path,
        send: Send | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database, self._about, self._path, self._send, self._clock = database, about, path, send, clock
        self._sending: tuple[Thread, list[Outcome]] | None = None
        self._trouble = ""

    def step(self) -> None:
        """Note what was delivered, and begin with what is due; quick, and what is not possible now is left."""
        try:
            if self._sending is not None and not self._sending[0].is_alive():
                self._note(self._sending[1])
                self._sending = None
            if self._sending is None and (claimed := self._claim()):
                outcomes: list[Outcome] = []
                thread = Thread(target=self._send_all, args=(claimed, outcomes), name="alerts", daemon=True)
                thread.start()
                self._sending = thread, outcomes
        except Unavailable as error:
            self._report(f"alerts wait: {error}")

    def finish(self, timeout_s: float) -> tuple[int, int]:
        """Deliver all, for up to `timeout_s`; how many alerts there are, and how many are left for the next run."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            self.step()
            with self.database.errors():
                ((stored, left),) = self.database.execute(_COUNT).fetchall()
            if not left or time.monotonic() > deadline_s:
                return stored, left
            time.sleep(0.01)

    def _claim(self) -> list[Claimed]:
        now_us, claimed, lines = round(self._clock() * 1e6), list[Claimed](), list[str]()
        with self.database.errors():
            due = self.database.execute(_DUE, now_us, MAX_ATTEMPTS).fetchall()
        if not due:
            return []
        with self.database.transaction():
            for id, alert, name, event_us, record, attempts, due_us in due:
                if self.database.execute(_CLAIM, now_us + round(LEASE_S * 1e6), id, due_us).rowcount != 1:
                    continue  # by another copy
                at = "" if event_us is None else instant_text(event_us)
                about = {"id": id, **self._about, "alert": alert, "name": name, "time": at or None}
                claimed.append((id, attempts + 1, msgspec.json.encode(about | {"record": msgspec.Raw(record)}) + b"\n"))
                if not attempts:
                    lines.append(" ".join(filter(None, (f"alert {alert}:", name, at, record))))
            self._publish(b"".join(line for _, attempt, line in claimed if attempt == 1))
        for line in lines:
            logger.warning("{}", line)
        return claimed

    def _publish(self, lines: bytes) -> None:
        """Append to the file, in the transaction that notes it: a kill before its end repeats the lines."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as stream:
                stream.write(lines)
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror}") from error

    def _send_all(self, claimed: Sequence[Claimed], outcomes: list[Outcome]) -> None:
        """In the thread: send one after the other; for the last ones there may be no time."""
        began_s, error = time.monotonic(), ""
        for id, attempts, alert in claimed:
            if time.monotonic() - began_s < BATCH_S:
                try:
                    error = ""
                    if self._send is not None:
                        self._send(id, alert)
                except Unavailable as unavailable:
                    error = str(unavailable)
            outcomes.append((id, attempts, error))

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        now_us = round(self._clock() * 1e6)
        with self.database.transaction():
            for id, attempts, error in outcomes:
                wait_s = min(2.0 ** min(attempts - 1, 20), RETRY_CAP_S)
                self.database.execute(_DONE, now_us + round(wait_s * 1e6) if error else None, id)
        reasons = [error for _, _, error in outcomes if error]
        self._report(f"{reasons[-1]}; the alert is tried again" if reasons else "")

    def _report(self, trouble: str) -> None:
        """Log what is wrong when it changes, and once that nothing is."""
        if trouble != self._trouble:
            logger.log("WARNING" if trouble else "INFO", "{}", trouble or "alerts are delivered again")
        self._trouble = trouble
