"""Feeding an input to the journal: inferring its stream, storing its positions, keeping its rejected records."""

import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from loguru import logger

from utils.app import cli, startup
from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.app.options import Once, optional
from utils.delivery.producing import MAX_SHOWN, Session, session
from utils.emitters.file_emitter import FileEmitter
from utils.feeds.inputs import PIPE, SAMPLE, TOPIC, Input
from utils.reading.follow import RETRY_CAP_S, StateLog, follow
from utils.records.codec import Field, encoder
from utils.records.infer import Values, infer_fields, instant_us, values_of, with_roles
from utils.records.record import Batch, Invalid
from utils.records.stream import Stream, check_roles, load_stream, schema_path
from utils.records.table import Table
from utils.sinks import DEFAULT_RUN, EMBEDDED, INFERRED_FROM, SINKS, RunOptions, Sinks
from utils.sources.base import Chunk

CHUNK_RECORDS = 10_000
SAMPLE_BYTES = 8 << 20  # of the records that fields are inferred from
MAX_SHOWN_FIELDS = 40
MAX_INVALID = 9  # invalid rows per readable one; with more of them the first line does not name the columns


@Parameter(name="*")
@dataclass(frozen=True)
class FeedOptions:
    """The options of every feed."""

    time: Annotated[str | None, optional("Field with the event time; default: the one that is found.")] = None
    once: Once = False
    again: Annotated[bool, optional("Read all of SOURCE once more, as new records.")] = False
    sinks: Sinks = EMBEDDED
    run: RunOptions = DEFAULT_RUN


PLAIN_FEED = FeedOptions()


def fed_stream(
    name: str, samples: Sequence[bytes], settings: Settings, time: str | None = None, *, kind: str = "json"
) -> Stream:
    """Return the stream of the schema file, or else infer one from the first records and print its fields.

    `time` names the field of the event time. In `kind` csv and text, a field with mixed values is text, else json.
    Raises ToolkitError if the values of `time` are not times.
    """
    found = load_stream(name, settings.schema_folder)
    records = [values_of(line) for line in samples]
    mixed = "text" if kind in ("csv", "text") else "json"
    types = (Field(each.name, mixed) if each.type == "json" else each for each in infer_fields(records))
    stream = found or with_roles(Stream(name, fields=tuple(types), time=time), records)
    if not any(field.name.lower() == "timestamp" for field in stream.fields):  # each record gets a timestamp
        stream = replace(stream, fields=(*stream.fields, Field("timestamp", "timestamp")))
    if time:
        stream = replace(stream, time=time)
        check_roles(stream, "--time")
        values = [record[time] for record in records if record.get(time) is not None]
        if values and all(instant_us(value) is None for value in values):
            raise ToolkitError(f"--time names {time}, whose values are not times, such as {values[0]!r}")
    if found is None:
        sample = cli.counted(len(records), "record")
        path = schema_path(name, settings.schema_folder)
        logger.info("stream {}: inferred from the first {}, kept in {}", name, sample, path)
        roles = {getattr(stream, role): role for role in ("histogram", "value", "by", "time")}
        rows = [
            (field.name, field.type, roles.get(field.name, ""), _example(field.name, records))
            for field in stream.fields[:MAX_SHOWN_FIELDS]
        ]
        cli.print_table(("field", "type", "role", "such as"), rows)
        if not stream.time:
            hint = "; --time-format tells how times are written" if kind in ("csv", "text") else ""
            logger.info("no field has times that can be read: each record gets the time of its reading{}", hint)
    return stream


def _example(name: str, records: Sequence[Values]) -> str:
    """Return a value of a field. One that is not a number comes first, because it shows why the field is not number."""
    found = (record[name] for record in records if record.get(name) is not None)
    value = min(found, key=lambda value: type(value) in (int, float), default="")
    return (value if isinstance(value, str) else encoder.encode(value).decode())[:MAX_SHOWN]


def sample_stream(
    source: Input, name: str, settings: Settings, stop: threading.Event, *, time: str | None = None, wait: bool = False
) -> Stream | None:
    """Return the stream of an input, see `fed_stream`; None if stopped before the first record of a new stream.

    With `wait`, waits until the input can be read and, for a new stream, has a record; else raises ToolkitError.
    """
    is_new = load_stream(name, settings.schema_folder) is None
    samples, states, reason, number = list[bytes](), StateLog(), "", 0
    with closing(source.open(SAMPLE, lambda partition: "", not wait)) as reader:
        is_done = not is_new and source.place == PIPE  # a pipe may have no data for a long time
        while not (is_done or stop.is_set()):
            try:
                chunk = reader.poll(INFERRED_FROM - len(samples))
            except Absent as error:  # the user named it, so it should be there
                raise ToolkitError(str(error)) from error
            except Unavailable as error:
                if not wait:
                    raise
                states.trouble(error)
                stop.wait(RETRY_CAP_S)
                continue
            found = [line.line for line in chunk.records] if chunk else []
            number += len(found)
            if not (chunk and source.kind == "csv" and len(chunk.invalid) > MAX_INVALID * len(found)):
                samples += found  # else a title is above the names of the columns
            is_full = len(samples) >= INFERRED_FROM or sum(map(len, samples)) >= SAMPLE_BYTES
            is_last = chunk is None or source.place == PIPE or is_full
            is_done = not is_new or stop.is_set() or (is_last and bool(samples))
            if chunk and chunk.invalid:
                hint = "; --format, --pattern and --items tell how to read it; JSON has an object per line"
                reason = f": {chunk.invalid[0].reason}{hint if source.kind != 'csv' else ''}"
            elif not (chunk or is_done):
                few = f"only {cli.counted(number, 'readable record')}" if number else "no readable record"
                missing = f"{reader.detail} has {few}{reason}, so no stream is known"
                if not wait:
                    raise ToolkitError(missing)
                states.trouble(Absent(missing))
                stop.wait(RETRY_CAP_S)
    return fed_stream(name, samples, settings, time, kind=source.kind) if samples or not is_new else None


class Feeding:
    """Handler of an input's chunks: appends valid lines and the position to the journal, other lines to `letters`."""

    def __init__(self, source: Input, run: Session, letters: Path, *, again: bool) -> None:
        self._source, self._run, self._letters = source, run, letters
        run.counts["read"] = 0
        if again:  # for all partitions at once, so that after an interruption the next run reads all the rest
            run.journal.trim_positions(self._key(""), 0)

    def resume(self, partition: str) -> str:
        """Return the position of a partition that the journal has stored."""
        return self._run.journal.position(self._key(partition))

    def handle(self, chunk: Chunk) -> int:
        """Acknowledge the lines of a chunk and return their number. See `follow`."""
        if chunk.begins_again and not self._source.restarts:
            changed = f"{chunk.partition} was replaced, or rows that were fed from it have changed"
            raise ToolkitError(f"{changed}: --again feeds all of it once more, --stream NAME into another stream")
        batch, rejected = self._run.batch(chunk.records)
        place = f"{chunk.partition} before {chunk.end}"
        invalid = [*chunk.invalid, *(Invalid(place, reason, line.line) for line, reason in rejected)]
        # Rejected lines are kept first, because the position of the append is after them.
        if invalid and not self._run.write(lambda: self._keep(invalid)):
            return 0
        if not self._run.append(batch, {self._key(chunk.partition): chunk.end}):
            return 0
        self._run.counts.update(read=batch.count + len(invalid), rejected=len(invalid))
        return batch.count

    def _keep(self, invalid: Sequence[Invalid]) -> None:
        letters = [
            {"place": each.where, "reason": each.reason, "input": each.line.decode("utf-8", "backslashreplace")}
            for each in invalid
        ]
        lines, codec = encoder.encode_lines(letters), self._run.journal.stream.codec
        with closing(FileEmitter(self._letters)) as emitter:
            emitter.emit(Batch("", len(letters), len(letters), lines, codec))

    def _key(self, partition: str) -> str:
        return f"{self._source.place} {partition}"


def feed(
    source: Input, name: str, options: FeedOptions, settings: Settings, stop: threading.Event, *, journal: str = ""
) -> int:
    """Feed an input to stream `name` until its end, the count of the run, or `stop`. Return the exit code.

    Raises ToolkitError if only the user can fix it.
    """
    place = {source.place, str(Path(source.place).resolve())}
    for sink in options.sinks:
        path = SINKS[sink].path(settings, Stream(name))
        own = f"{TOPIC}{settings.topic_of(name)}" if path is None else str(path.resolve())
        if place & {own, f"{own}/{Table(Stream(name)).name}"}:
            raise ToolkitError(f"{source.place} is the {sink} sink of stream {name}: name other --sinks or --stream")
    once = options.once or source.ends
    can_resume = once and source.place != PIPE  # after an interruption the next run reads the rest
    stream = sample_stream(source, name, settings, stop, time=options.time, wait=not once)
    if stream is None:
        return startup.UNFINISHED if can_resume else 0
    time, letters = stream.time, settings.dead_letter_path(f"{name}-input")
    journal = journal or (f"feed-{name}" if source.name in ("", name) else f"feed-{name}-{source.name}")
    with session(stream, journal, settings, sinks=options.sinks, run=options.run, stop=stop) as opened:
        handler = Feeding(source, opened, letters, again=options.again or source.place == PIPE)
        follow(
            lambda: source.open(replace(opened.journal.stream, time=time), handler.resume, once),
            handler.handle, stop, once=once, count=options.run.count, chunk_records=CHUNK_RECORDS,
        )  # fmt: skip
        is_interrupted = can_resume and stop.is_set()
    if opened.counts["rejected"]:
        cli.print_lines(f"rejected records are in {letters}")
    if can_resume and not opened.counts["read"] and not stop.is_set():
        cli.print_lines(f"nothing is new in {source.place} since it was fed: --again feeds all of it once more")
    return startup.UNFINISHED if is_interrupted else opened.code
