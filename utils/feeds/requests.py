"""The records of HTTP requests into the journal: many requests in one transaction, each taken whole or not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from hashlib import blake2b
from queue import Empty, SimpleQueue

import msgspec
from starlette.exceptions import HTTPException

from utils.delivery.producing import Session
from utils.feeds.lines import LineCodec
from utils.records.external import reason_of
from utils.records.record import Line
from utils.sources.base import decode_all

MAX_RECORDS = 10_000
"""Of one request."""
GROUP_BYTES = 2 << 20
KEYS = 1_000_000
"""So many Idempotency-Keys are remembered, the newest."""
TRIM_EVERY = 10_000
LATER = {"Retry-After": "5"}

_BOM = b"\xef\xbb\xbf"
_KEY = "key:"  # begins the names of their positions in the journal

_array = msgspec.json.Decoder(list[msgspec.Raw])

Answer = int | HTTPException
"""How many records were acknowledged, or why none was."""


class Posted(Future[int]):
    """A request that waits for its answer: how many records were acknowledged, or an HTTPException."""

    def __init__(self, body: bytes, key: str) -> None:
        super().__init__()
        self.body, self.key = body, key

    def answer(self, answer: Answer) -> None:
        """Answer it; may be called from any thread, and the first answer counts."""
        with suppress(InvalidStateError):  # it has one, or nobody waits any more
            if isinstance(answer, HTTPException):
                self.set_exception(answer)
            else:
                self.set_result(answer)


class Waiting:
    """Requests on their way from the web server's thread to the one that takes them, in groups."""

    def __init__(self) -> None:
        self._new: SimpleQueue[Posted] = SimpleQueue()
        self._unanswered: set[Posted] = set()
        self._is_closed = False

    async def answer_to(self, body: bytes, key: str) -> int:
        """How many records of a request were acknowledged. Raises HTTPException if none was."""
        posted = Posted(body, key)
        self._unanswered.add(posted)
        try:
            if self._is_closed:  # asked behind the line before, so that either side sees the other
                raise stopping()
            self._new.put(posted)
            return await asyncio.wrap_future(posted)
        finally:
            self._unanswered.discard(posted)

    def group(self, wait_s: float, gather_s: float = 0.0) -> list[Posted]:
        """The requests to answer next, about GROUP_BYTES at most; none if none has come within `wait_s`.

        Behind the first more are gathered for `gather_s`.
        """
        group, size = list[Posted](), 0
        with suppress(Empty):
            group.append(self._new.get(timeout=wait_s))
            time.sleep(gather_s)
            while (size := size + len(group[-1].body)) < GROUP_BYTES:
                group.append(self._new.get_nowait())
        return group

    def close(self) -> None:
        """Answer whoever waits that nothing is taken any more; may be called twice."""
        self._is_closed = True
        for posted in self._unanswered.copy():
            posted.answer(stopping())


def fed_lines(body: bytes, codec: LineCodec) -> list[Line]:
    """The records of one JSON object, an array or JSON lines.

    Raises HTTPException with the place and the reason of the first that is invalid.
    """
    body = body.removeprefix(_BOM).strip()
    if body.startswith(b"["):
        try:
            texts = [bytes(each).replace(b"\n", b" ") for each in _array.decode(body)]
        except (msgspec.DecodeError, RecursionError) as error:
            raise HTTPException(400, f"no complete JSON array: {reason_of(error, body)}") from error
    elif body.partition(b"\n")[0].rstrip().endswith(b"}"):
        texts = [line for line in body.split(b"\n") if line.strip()]
    else:
        texts = [body]  # one object over several lines
    if len(texts) > MAX_RECORDS:
        raise HTTPException(413, f"{len(texts):,} records in one request: send {MAX_RECORDS:,} at most")
    lines, invalid = decode_all(codec, texts, [f"record {number}" for number in range(1, len(texts) + 1)])
    if invalid:
        raise HTTPException(400, f"{invalid[0].where}: {invalid[0].reason}")
    return lines


class Intake:
    """Takes requests into the journal, those of a group in one transaction."""

    def __init__(self, session: Session, codec: LineCodec) -> None:
        self._session, self._codec = session, codec
        self._untrimmed = TRIM_EVERY  # keys; earlier runs may have ended before they trimmed theirs

    def answer(self, group: Sequence[Posted]) -> None:
        """Acknowledge or reject each of the requests as a whole, and answer it."""
        for posted, answer in zip(group, self.take(group), strict=True):
            posted.answer(answer)

    def take(self, group: Sequence[Posted]) -> Sequence[Answer]:
        """What the requests are answered, whose records are in the journal then."""
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
        """What a request is answered once `lines` and `keys`, to which it is added, are in the journal."""
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
        try:
            found = fed_lines(posted.body, self._codec)
        except HTTPException as error:
            return error
        lines += found
        if found and posted.key:
            keys[position] = f"{len(found)} {fingerprint}"
        return len(found)


def stopping() -> HTTPException:
    """The answer to what is not taken because the feed ends."""
    return HTTPException(503, "the feed is stopping: try again later", LATER)
