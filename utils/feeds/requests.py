"""The records of HTTP requests into the journal: many requests in one transaction, each taken whole or not at all."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import NamedTuple

import msgspec
from msgspec import Raw
from starlette.exceptions import HTTPException

from utils.delivery.producing import Session
from utils.feeds.lines import LineCodec
from utils.records.record import Line

MAX_RECORDS = 10_000
"""Of one request."""
GROUP_BYTES = 2 << 20
KEYS = 1_000_000
"""So many Idempotency-Keys are remembered, the newest."""
TRIM_EVERY = 10_000
LATER = {"Retry-After": "5"}

_BOM = b"\xef\xbb\xbf"
_KEY = "key:"  # begins the names of their positions in the journal

_array = msgspec.json.Decoder(list[Raw])
_any = msgspec.json.Decoder(Raw)

Answer = int | HTTPException
"""How many records were acknowledged, or why none was."""


class Posted(NamedTuple):
    """A request that waits for its answer."""

    body: bytes
    key: str
    answer: asyncio.Future[Answer]


class Waiting:
    """Requests on their way from the web server's thread to the one that takes them, in groups."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._posted: deque[Posted] = deque()
        self._group: list[Posted] = []  # handed out, and not answered yet
        self._is_closed = False

    async def answer_to(self, body: bytes, key: str) -> Answer:
        """The answer to a request, once there is one."""
        posted = Posted(body, key, asyncio.get_running_loop().create_future())
        with self._changed:
            if self._is_closed:
                return stopping()
            self._posted.append(posted)
            self._changed.notify()
        return await posted.answer

    def group(self, wait_s: float, gather_s: float = 0.0) -> Sequence[Posted]:
        """The requests to answer next, about GROUP_BYTES at most; none if none has come within `wait_s`.

        They are those of the group before if it was not answered. Behind the first more are gathered for `gather_s`.
        """
        if not self._group:
            with self._changed:
                self._changed.wait_for(lambda: self._posted, wait_s)
            if self._posted:
                time.sleep(gather_s)
            size = 0
            while self._posted and size < GROUP_BYTES:
                self._group.append(self._posted.popleft())
                size += len(self._group[-1].body)
        return self._group

    def answer(self, answers: Iterable[Answer]) -> None:
        """Answer the requests of the group."""
        group, self._group = self._group, []
        if group:
            with suppress(RuntimeError):  # the web server has ended, and nobody waits any more
                group[0].answer.get_loop().call_soon_threadsafe(_settle, group, list(answers))

    def close(self) -> None:
        """Answer whoever waits that nothing is taken any more; may be called twice."""
        with self._changed:
            self._is_closed = True
            self._group += self._posted
            self._posted.clear()
        self.answer(stopping() for _ in self._group)


def _settle(group: Sequence[Posted], answers: Sequence[Answer]) -> None:
    for posted, answer in zip(group, answers, strict=True):
        if not posted.answer.done():  # its client may have left
            posted.answer.set_result(answer)


def json_texts(body: bytes) -> tuple[str, list[tuple[int, bytes]]]:
    """The numbered records of one JSON object, an array or JSON lines; the word says what the numbers count.

    Raises ValueError if there is none, or if an array is not complete.
    """
    body = body.removeprefix(_BOM).strip()
    if not body:
        raise ValueError("the body is empty: send a JSON object, an array of them or JSON lines")
    try:
        if body.startswith(b"["):
            return "record", [(number, bytes(each)) for number, each in enumerate(_array.decode(body), 1)]
        _any.decode(body)
        return "record", [(1, body)]
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except msgspec.DecodeError as error:
        if body.startswith(b"["):
            raise ValueError(f"no complete JSON array: {error}") from error
    lines = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    if len(lines) > 1 and lines[0][1].rstrip().endswith(b"}"):
        return "line", lines
    return "record", [(1, body)]  # an object over several lines that is invalid


def fed_lines(body: bytes, codec: LineCodec) -> list[Line] | HTTPException:
    """The records of a request, or the place and the reason of the first that is invalid."""
    try:
        word, texts = json_texts(body)
    except ValueError as error:
        return HTTPException(400, str(error))
    if len(texts) > MAX_RECORDS:
        return HTTPException(413, f"{len(texts):,} records in one request: send {MAX_RECORDS:,} at most")
    with suppress(ValueError):  # at least one needs a closer look
        return codec.decode_lines(b"".join(text.replace(b"\n", b" ") + b"\n" for _, text in texts)) if texts else []
    lines: list[Line] = []
    for number, text in texts:
        try:
            lines.append(codec.decode(text))
        except ValueError as error:
            return HTTPException(400, f"{word} {number}: {error}")
    return lines


class Intake:
    """Takes requests into the journal, those of a group in one transaction."""

    def __init__(self, session: Session, codec: LineCodec) -> None:
        self._session, self._codec = session, codec
        self._untrimmed = TRIM_EVERY  # keys; earlier runs may have ended before they trimmed theirs

    def take(self, group: Sequence[Posted]) -> Sequence[Answer]:
        """Acknowledge or reject each of the requests as a whole."""
        session, lines, keys = self._session, list[Line](), dict[str, str]()
        is_full = not session.has_room()
        answers = [self._answer(posted, lines, keys, is_full) for posted in group]
        if lines:
            batch, rejected = session.batch(lines)
            assert not rejected, "what was decoded can be stored"
            if not session.append(batch, keys):
                return [stopping() for _ in group]
            session.counts["read"] += batch.count
            self._untrimmed += len(keys)
            if keys and self._untrimmed >= TRIM_EVERY:
                self._untrimmed = 0
                session.journal.trim_positions(_KEY, KEYS)
        return answers

    def _answer(self, posted: Posted, lines: list[Line], keys: dict[str, str], is_full: bool) -> Answer:
        """What the request is answered once `lines` and `keys`, to which it is added, are in the journal."""
        position, fingerprint = _KEY + posted.key, ""
        if posted.key:
            fingerprint = blake2b(posted.body, digest_size=8).hexdigest()
            if known := keys.get(position) or self._session.journal.position(position):
                count, _, before = known.partition(" ")
                if fingerprint != before:
                    return HTTPException(422, "this Idempotency-Key came with another body: use one key per request")
                return int(count)
        if is_full:
            return HTTPException(429, "the journal is full: try again later", LATER)
        found = fed_lines(posted.body, self._codec)
        if isinstance(found, HTTPException):
            return found
        lines += found
        if found and posted.key:
            keys[position] = f"{len(found)} {fingerprint}"
        return len(found)


def stopping() -> HTTPException:
    """The answer to what is not taken because the feed ends."""
    return HTTPException(503, "the feed is stopping: try again later", LATER)
