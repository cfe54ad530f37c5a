"""The records of HTTP requests into the journal: many requests in one transaction, each taken whole or not at all."""

from __future__ import annotations

import time
from asyncio import Future
from contextlib import suppress
from hashlib import blake2b
from typing import NamedTuple

import msgspec
from msgspec import Raw
from starlette.exceptions import HTTPException

from utils.delivery.producing import Session
from utils.records.codec import Codec, instant_text
from utils.records.infer import event_time
from utils.records.record import Batch, Line
from utils.records.stream import Stream

MAX_RECORDS = 10_000
"""Of one request, which is one batch."""
MAX_GROUP_RECORDS = 20_000
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
    answer: Future[Answer]


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


def batch_of(body: bytes, stream: Stream, producer_id: str, first: int) -> Batch:
    """The records of a request. Raises HTTPException with the place and the reason of the first that is invalid."""
    codec, now = stream.codec, instant_text(time.time_ns() // 1_000_000 * 1_000)
    try:
        word, texts = json_texts(body)
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    if len(texts) > MAX_RECORDS:
        raise HTTPException(413, f"{len(texts):,} records in one request: send {MAX_RECORDS:,} at most")
    lines = [Line(text, now) for _, text in texts]
    try:
        batch = _decoded(lines, producer_id, first, codec)
    except ValueError:
        raise _first_invalid(word, texts, codec) from None
    if stream.time not in (None, "timestamp"):
        find_us = event_time(stream)
        for line, record in zip(lines, batch.records, strict=True):
            if (at_us := find_us(record)) is not None:
                line.timestamp = instant_text(at_us)
        batch = _decoded(lines, producer_id, first, codec)
    return batch


def _decoded(lines: list[Line], producer_id: str, first: int, codec: Codec) -> Batch:
    batch = Batch.of_lines(lines, producer_id, first, codec)
    if lines:
        batch.columns  # noqa: B018  # made here, once for all sinks
    return batch


def _first_invalid(word: str, texts: list[tuple[int, bytes]], codec: Codec) -> HTTPException:
    for number, text in texts:
        try:
            _decoded([Line(text, "2026-11-23T19:04:05.123Z")], "check", 1, codec)
        except ValueError as error:
            return HTTPException(400, f"{word} {number}: {error}")
    return HTTPException(400, "the records are valid one by one, but not together")


class Group:
    """Requests whose records go to the journal in one transaction, and their answers."""

    def __init__(self, session: Session, stream: Stream) -> None:
        self._session, self._stream = session, stream
        self._batches: list[Batch] = []
        self._last = session.journal.last  # with those of the group
        self._answers: list[tuple[Posted, Answer]] = []
        self._keys: dict[str, str] = {}  # position -> count and fingerprint, of this group
        self._untrimmed = TRIM_EVERY  # keys; earlier runs may have ended before they trimmed theirs
        self._is_full = False  # so that one look at it serves many requests

    def handle(self, requests: list[Posted]) -> None:
        """Acknowledge or reject the requests, and answer them. Raises ToolkitError if the feed cannot continue."""
        self._is_full = bool(requests) and not self._session.has_room()
        for posted in requests:
            if self._last - self._session.journal.last >= MAX_GROUP_RECORDS:
                self._commit()
                self._is_full = not self._session.has_room()
            try:
                self._answers.append((posted, self._add(posted)))
            except HTTPException as error:
                self._answers.append((posted, error))
        self._commit()

    def _add(self, posted: Posted) -> int:
        """How many records the request has, which are in the group from now on or were acknowledged before."""
        journal = self._session.journal
        position = fingerprint = ""
        if posted.key:
            position, fingerprint = _KEY + posted.key, blake2b(posted.body, digest_size=8).hexdigest()
            if known := self._keys.get(position) or journal.position(position):
                count, _, before = known.partition(" ")
                if fingerprint != before:
                    raise HTTPException(422, "this Idempotency-Key came with another body: use one key per request")
                return int(count)
        if self._is_full:
            raise HTTPException(429, "the journal is full: try again later", LATER)
        batch = batch_of(posted.body, self._stream, journal.producer_id, self._last + 1)
        if batch.count:
            self._batches.append(batch)
            self._last = batch.last
            if posted.key:
                self._keys[position] = f"{batch.count} {fingerprint}"
        return batch.count

    def _commit(self) -> None:
        """Append what has been added, then answer."""
        batches, self._batches = self._batches, []
        answers, self._answers = self._answers, []
        keys, self._keys = self._keys, {}
        taken = not batches
        try:
            if batches:
                batch = Batch.join(batches)
                taken = self._session.append(batch, keys)
                self._session.counts["read"] += batch.count if taken else 0
        finally:
            respond(answers if taken else [(posted, stopping()) for posted, _ in answers])
        self._untrimmed += len(keys)
        if keys and self._untrimmed >= TRIM_EVERY:
            self._untrimmed = 0
            self._session.journal.trim_positions(_KEY, KEYS)


def stopping() -> HTTPException:
    """The answer to what is not taken because the feed ends."""
    return HTTPException(503, "the feed is stopping: try again later", LATER)


def respond(answers: list[tuple[Posted, Answer]]) -> None:
    """Answer requests, from any thread; one whose client has left has no use for it."""
    if answers:
        with suppress(RuntimeError):  # the server has ended
            answers[0][0].answer.get_loop().call_soon_threadsafe(_set, answers)


def _set(answers: list[tuple[Posted, Answer]]) -> None:
    for posted, answer in answers:
        if not posted.answer.done():
            posted.answer.set_result(answer)
