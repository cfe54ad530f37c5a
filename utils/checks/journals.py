"""The contents of the journals in a data folder. Reading them does not disturb running producers."""

from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.clients import sqlite
from utils.records.external import identity_of
from utils.records.stream import BUZZ, Stream
from utils.sinks import ALL, find_stream
from utils.sources.sqlite_source import open_read_only


@dataclass(frozen=True)
class JournalSummary:
    """The contents of one journal; `producer` is `<name>-<journal>`.

    `runs`: first and last acknowledged sequence of each producer_id. `subscribed`: for each sink the start of its
    subscription, as time and as the sequence after which it gets records. `pruned`: the last sequence that the journal
    has deleted; it still contains the later records, in `pending_bytes`.
    """

    path: Path
    producer: str
    stream: str
    runs: dict[str, tuple[int, int]]
    subscribed: dict[str, tuple[str, int]]
    pruned: int
    pending_bytes: int

    @property
    def last(self) -> int:
        return max(last for _, last in self.runs.values())


def journal_paths(settings: Settings) -> list[Path]:
    """Return the paths of the journals in the data folder."""
    return sorted(settings.journal_path("x").parent.glob("*.sqlite"))


def journal_summary(path: Path) -> JournalSummary | None:
    """Read a journal; None if its producer is still creating it. Raises ToolkitError if it cannot be read."""
    with sqlite.mapped_errors(path), closing(open_read_only(path)[0]) as connection:
        connection.execute("BEGIN")
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if not tables:
            return None
        if "facts" not in tables:
            remedy = "deliver what is pending with the version that wrote it, or move the file away"
            raise ToolkitError(f"{path} is not a journal of this version: {remedy}")
        runs = connection.execute("SELECT producer_id, first, last FROM runs ORDER BY run").fetchall()
        subscribed = connection.execute("SELECT sink, since, after FROM subscriptions ORDER BY rowid").fetchall()
        stream = connection.execute("SELECT value FROM facts WHERE name = 'stream'").fetchone()
        oldest, size = connection.execute("SELECT MIN(last - count), total(length(lines)) FROM batches").fetchone()
    if not runs:
        return None
    return JournalSummary(
        path=path,
        producer=runs[0][0].rpartition("-")[0],
        stream=stream[0],
        runs={producer_id: (first, last) for producer_id, first, last in runs},
        subscribed={sink: (since, after) for sink, since, after in subscribed},
        pruned=runs[-1][2] if oldest is None else oldest,
        pending_bytes=int(size),
    )


def journal_summaries(settings: Settings) -> list[JournalSummary]:
    """Read all journals in the data folder. Raises ToolkitError."""
    return [journal for path in journal_paths(settings) if (journal := journal_summary(path))]


def dead_letters(path: Path) -> Iterator[tuple[str, int]]:
    """Yield producer_id and sequence of each record in a file of dead letters."""
    if path.exists():
        with path.open("rb") as lines:
            yield from filter(None, map(identity_of, lines))


def stream_names(settings: Settings, found: Iterable[JournalSummary] = ()) -> list[str]:
    """Return the names of buzz, of all streams with a schema file, and of the streams of these journals."""
    declared = [path.stem for path in sorted(settings.schema_folder.glob("*.json"))]
    return list(dict.fromkeys([BUZZ.name, *declared, *(journal.stream for journal in found)]))


def stream_of(name: str, settings: Settings, sinks: Iterable[str] = ALL) -> Stream:
    """Return a stream by its schema file, else inferred from the first sink with records, else without fields."""
    for sink in sinks:
        with suppress(Unavailable):
            return find_stream(name, settings, sink)
    return Stream(name)


def audited_sinks(settings: Settings, stream: str | None = None) -> tuple[str, ...]:
    """Return the sinks that journals of `stream` subscribe, else those of all journals. Raises ToolkitError if none."""
    found = journal_summaries(settings)
    of_stream = [journal for journal in found if journal.stream == stream]
    sinks = {sink for journal in of_stream or found for sink in journal.subscribed}
    if not sinks:
        reason = f"no journal in {settings.data_path} (see --data-dir) has a subscribed sink"
        raise ToolkitError(f"nothing to audit: {reason}; name sinks with --sinks to compare them without a journal")
    return tuple(sink for sink in ALL if sink in sinks)
