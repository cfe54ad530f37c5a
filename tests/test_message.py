"""Messages, records that others wrote, batches."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import make_batch, make_messages
from utils.records import sentiment
from utils.records.record import (
    MAX_MESSAGE_BYTES,
    Batch,
    Message,
    decode_lines,
    decode_record,
    encode_lines,
    from_mapping,
    timestamp_epoch_s,
    timestamp_text,
)


def test_a_long_text_costs_no_more_than_its_beginning() -> None:
    longer_and_worse = "I love this! " * 100 + "x1 " * 50_000 + "but " + "good " * 50_000  # minutes, if all counted
    assert sentiment.score(longer_and_worse) == sentiment.score(longer_and_worse[: sentiment.MAX_CHARACTERS]) > 0.7


def test_what_a_foreign_record_lacks_is_filled() -> None:
    found = decode_record(b'{"message": "I love this!"}')
    assert (found.author, found.message_length, found.timestamp) == ("Unknown", 12, "")
    assert found.sentiment == sentiment.score("I love this!") > 0.7
    assert (found.producer_id, found.sequence) == (None, None)


def test_numbers_in_a_foreign_record_may_be_text_and_unknown_fields_are_passed_over() -> None:
    found = decode_record('{"message": "a", "sentiment": "0.25", "message_length": "1", "id": 7, "extra": {"x": []}}')
    assert (found.sentiment, found.message_length) == (0.25, 1)


@pytest.mark.parametrize("half", ['"producer_id": "a-1"', '"sequence": 3'])
def test_half_an_identity_is_none(half: str) -> None:
    found = decode_record(json.dumps(dict(message="a"))[:-1] + f", {half}}}")
    assert (found.producer_id, found.sequence) == (None, None)


@pytest.mark.parametrize(
    "record",
    [
        b"", b"{", b"[]", b"null", b'"text"', b"{}", b'{"message": 7}', b'{"message": null}', b"\xff\xfe",
        b'{"message": "a", "sentiment": 1.5}', b'{"message": "a", "message_length": -1}',
        b'{"message": "a", "sequence": 0, "producer_id": "x"}', b'{"message": "a", "message_length": 1e30}',
        b'{"message": "a"} {"message": "b"}', b'{"message": "\xc3"}',
    ],
)  # fmt: skip
def test_an_unreadable_record_is_told_with_its_reason(record: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode_record(record)


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_no_bytes_can_do_more_than_be_invalid(data: bytes) -> None:
    try:
        found = decode_record(data)
    except ValueError:
        return
    assert isinstance(found.message, str)


_plain = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=50)


@given(
    st.builds(
        Message, _plain, _plain, _plain, _plain, st.floats(0, 1), _plain, st.integers(0, 2**63 - 1),
        _plain.filter(bool), st.integers(1, 2**63 - 1),
    )
)  # fmt: skip
def test_what_is_encoded_is_decoded(message: Message) -> None:
    lines = encode_lines([message, message])
    assert lines.count(b"\n") == 2
    assert len(lines.splitlines()) == 2
    assert decode_lines(lines) == [message, message]
    assert decode_record(lines.splitlines()[0]) == message


def test_a_mapping_is_read_like_a_record() -> None:
    assert from_mapping({"message": "a", "author": None}) == decode_record('{"message": "a"}')
    with pytest.raises(ValueError, match="message"):
        from_mapping({"text": "a"})


def test_a_message_may_be_as_long_as_the_limit_and_not_one_byte_longer() -> None:
    (message,) = make_messages(1)
    room = MAX_MESSAGE_BYTES - len(encode_lines([message])) + 1
    message.message += "x" * room
    assert len(encode_lines([message] * 3)) > MAX_MESSAGE_BYTES
    message.message += "x"
    with pytest.raises(ValueError, match=str(MAX_MESSAGE_BYTES)):
        encode_lines([message])


def test_timestamps() -> None:
    assert timestamp_text(1795460645.1239) == "2026-11-23T19:04:05.123Z"
    assert timestamp_epoch_s("2026-11-23T19:04:05.123Z") == 1795460645.123
    local = datetime(2025, 1, 2, 3, 4, 5).timestamp()
    assert timestamp_epoch_s("2025-01-02 03:04:05") == local
    assert timestamp_epoch_s("yesterday") is None
    assert timestamp_text(datetime(2025, 1, 1, tzinfo=UTC).timestamp()) == "2025-01-01T00:00:00.000Z"


@given(st.integers(1, 12), st.integers(-3, 15), st.integers(-3, 15), st.booleans())
def test_a_part_of_a_batch_has_its_lines_and_messages(count: int, first: int, last: int, decoded: bool) -> None:
    batch = make_batch(count, first=5)
    if not decoded:
        del batch.__dict__["messages"]
    first, last = max(5, first), min(5 + count - 1, last)
    if first > last:
        return
    part = batch.between(first, last)
    assert (part.first, part.last, part.count) == (first, last, last - first + 1)
    assert part.lines == make_batch(last - first + 1, first=first).lines
    assert [message.sequence for message in part.messages] == list(range(first, last + 1))


def test_batches_that_follow_each_other_are_joined() -> None:
    joined = Batch.join([make_batch(2), make_batch(3, first=3)])
    assert (joined.first, joined.last, joined.lines) == (1, 5, make_batch(5).lines)
    assert joined.messages == make_batch(5).messages
    assert [row[0] for row in joined.rows] == [f"hello {number}" for number in range(1, 6)]
