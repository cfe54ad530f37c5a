"""The records of HTTP requests into the journal: many requests in one transaction, each taken whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import NamedTuple

import msgspec
from msgspec import Raw
from starlette.exceptions import HTTPException

from utils.app.errors import ToolkitError
from utils.delivery.producing import Session
from utils.feeds.lines import FedLine, LineCodec
from utils.records.stream import Stream

MAX_RECORDS = 10_000
"""Of one request."""
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
Begin = Callable[[Sequence[bytes]], tuple[Session, Stream]]
"""Opens the session of the stream that these are the first records of."""


class Posted(NamedTuple):
    """A request that waits for its answer."""

    body: bytes
    key: str


Take = Callable[[Sequence[Posted]], Sequence[Answer]]
"""Acknowledges or rejects requests."""


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


def fed_lines(body: bytes, codec: LineCodec) -> list[FedLine] | HTTPException:
    """The records of a request, or the place and the reason of the first that is invalid."""
    try:
        word, texts = json_texts(body)
    except ValueError as error:
        return HTTPException(400, str(error))
    if len(texts) > MAX_RECORDS:
        return HTTPException(413, f"{len(texts):,} records in one request: send {MAX_RECORDS:,} at most")
    with suppress(ValueError):  # at least one needs a closer look
        return codec.decode_lines(b"".join(text.replace(b"\n", b" ") + b"\n" for _, text in texts)) if texts else []
    lines: list[FedLine] = []
    for number, text in texts:
        try:
            lines.append(codec.decode(text))
        except ValueError as error:
            return HTTPException(400, f"{word} {number}: {error}")
    return lines


class Intake:
    """Takes requests into the journal, those that come together in one transaction, each whole or not at all.

    It has a `session` from `open` on; `error` is why it cannot continue.
    """

    def __init__(self, begin: Begin, codec: LineCodec) -> None:
        self._begin, self._codec = begin, codec
        self._one_at_a_time = threading.RLock()
        self._untrimmed = TRIM_EVERY  # keys; earlier runs may have ended before they trimmed theirs
        self.session: Session | None = None
        self.error: ToolkitError | None = None

    def open(self, texts: Sequence[bytes] = ()) -> None:
        """Begin with these records. Raises ToolkitError for what only the user can fix."""
        with self._one_at_a_time:
            if self.session is None:
                self.session, stream = self._begin(texts)
                self._codec = LineCodec(stream)

    def has_taken(self, count: int | None) -> bool:
        """Whether so many records are acknowledged; False where nobody has named a count."""
        return self.session is not None and count is not None and self.session.counts["acknowledged"] >= count

    def take(self, requests: Sequence[Posted]) -> Sequence[Answer]:
        """Acknowledge or reject the requests. See Take; any thread may call it."""
        with self._one_at_a_time:
            try:
                if self.session is None:
                    several = [fed_lines(posted.body, self._codec) for posted in requests]
                    if texts := [line.line for lines in several if isinstance(lines, list) for line in lines]:
                        self.open(texts)
                return self._take(requests)
            except ToolkitError as error:
                self.error = error
                return [stopping() for _ in requests]

    def _take(self, requests: Sequence[Posted]) -> Sequence[Answer]:
        session, lines, keys = self.session, list[FedLine](), dict[str, str]()
        is_full = session is not None and not session.has_room()
        answers = [self._answer(posted, lines, keys, is_full) for posted in requests]
        if session is not None and lines:
            batch, rejected = session.batch(lines)
            assert not rejected, "what was decoded can be stored"
            if not session.append(batch, keys):
                return [stopping() for _ in requests]
            session.counts["read"] += batch.count
            self._untrimmed += len(keys)
            if keys and self._untrimmed >= TRIM_EVERY:
                self._untrimmed = 0
                session.journal.trim_positions(_KEY, KEYS)
        return answers

    def _answer(self, posted: Posted, lines: list[FedLine], keys: dict[str, str], is_full: bool) -> Answer:
        """What the request is answered once `lines` and `keys`, to which it is added, are in the journal."""
        position, fingerprint = _KEY + posted.key, ""
        if posted.key and self.session is not None:
            fingerprint = blake2b(posted.body, digest_size=8).hexdigest()
            if known := keys.get(position) or self.session.journal.position(position):
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
