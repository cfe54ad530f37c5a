"""Re-streams a recording through the same journal and sinks, as new messages, with its original gaps."""

import csv
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from math import inf
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from utils.app import cli
from utils.app.config import DEFAULTS, EMBEDDED_SINKS, WHOLE_RUN, Run, Settings, Sinks, Speed
from utils.app.errors import ToolkitError
from utils.delivery import producing
from utils.reading.follow import InvalidLog
from utils.records.record import Invalid, Message, from_mapping, timestamp_epoch_s
from utils.sources.base import Source

PAGE_RECORDS = 10_000

Record = Message | Invalid


def main(
    recording: Annotated[Path, Parameter(help="A .jsonl, .json, .csv, .sqlite or .duckdb file.")],
    /,
    *,
    speed: Speed = 1.0,
    sinks: Sinks = EMBEDDED_SINKS,
    run: Run = WHOLE_RUN,
    settings: Settings = DEFAULTS,
) -> int:
    """Send the messages of a recording again, with new ids and times: to fill sinks, or to mend dead letters."""
    recorded = records(recording)
    with cli.progress(_lines(recording), "messages") as done:
        replay = Replay(recorded, done)
        interval_s = 1 / speed if speed else 0.0
        code = producing.produce("replay", replay.paced(), settings, interval_s=interval_s, sinks=sinks, run=run)
    cli.print_lines(f"{recording}: {replay.valid:,} messages read, {replay.invalid:,} invalid")
    return code


class Replay:
    """Paces records by their timestamps and counts them; invalid ones are named."""

    def __init__(self, records: Iterator[Record], done: Callable[[int], None]) -> None:
        self._records, self._done = records, done
        self.valid = self.invalid = 0

    def paced(self) -> Iterator[tuple[float, Message]]:
        """Pairs of the seconds since the message before, 0 where they cannot be told, and the message."""
        before_s: float | None = None
        log, first = InvalidLog(), None
        for record in self._records:
            if isinstance(record, Invalid):
                self.invalid += 1
                log.add([record])
                continue
            if first and (record.sequence or 0) >= (first.sequence or inf) and record.producer_id == first.producer_id:
                return  # what this run has just sent: the recording is one of its sinks
            record.producer_id = record.sequence = None
            first = first or record  # gets its ids when it is sent
            self.valid += 1
            self._done(1)
            at_s = timestamp_epoch_s(record.timestamp)
            yield max(0.0, at_s - before_s) if at_s is not None and before_s is not None else 0.0, record
            before_s = at_s if at_s is not None else before_s


def records(recording: Path) -> Iterator[Record]:
    """All records of a file up to its present end. Raises ToolkitError if there is no such file or kind."""
    if not recording.is_file():
        raise ToolkitError(f"there is no recording {recording}")
    try:
        recording.open("rb").close()
    except OSError as error:
        raise ToolkitError(f"{recording} cannot be read: {error.strerror}") from error
    match recording.suffix.lower():
        case ".csv":
            return csv_records(recording)
        case ".jsonl" | ".json":
            from utils.sources.file_source import FileSource

            return source_records(FileSource([recording], lambda partition: "", finished=True))
        case ".sqlite":
            from utils.sources.sqlite_source import SqliteSource

            return source_records(SqliteSource(recording, lambda partition: ""))
        case ".duckdb":
            from utils.sources.duckdb_source import DuckdbSource

            return source_records(DuckdbSource(recording, lambda partition: ""))
    raise ToolkitError(f"{recording} is not a .jsonl, .json, .csv, .sqlite or .duckdb file")


def _lines(recording: Path) -> int | None:
    """How many lines a text file has, which is how many records one may expect; None for other files."""
    if recording.suffix.lower() not in (".jsonl", ".csv"):
        return None
    with recording.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def source_records(source: Source) -> Iterator[Record]:
    """All records up to the present end."""
    with closing(source):
        while (chunk := source.poll(PAGE_RECORDS)) is not None:
            yield from chunk.records
            yield from chunk.invalid


def csv_records(recording: Path) -> Iterator[Record]:
    """The rows of a CSV file whose first line names the fields. Raises ToolkitError if it is no such file."""
    csv.field_size_limit(1 << 20)
    try:
        with recording.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            if "message" not in (rows.fieldnames or ()):
                raise ToolkitError(f"the first line of {recording} names no column message")
            for row in rows:
                try:
                    yield from_mapping({name: text for name, text in row.items() if name and text})
                except ValueError as error:
                    yield Invalid(f"{recording.name} line {rows.line_num}", str(error))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ToolkitError(f"{recording} is not a UTF-8 CSV file: {error}") from error


if __name__ == "__main__":
    sys.exit(cli.run(main, name="producers.replay_producer"))
