"""What the journals of a data folder know, read beside running producers."""

from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.clients import sqlite
from utils.records.external import identity_of
from utils.records.stream import BUZZ, Stream
from utils.sinks import ALL, EMBEDDED, SINKS, find_stream
from utils.sources.sqlite_source import open_read_only


@dataclass(frozen=True)
class KnownRun:
    """A run of a producer: the sequences `first` to `last` are acknowledged."""

    producer_id: str
    first: int
    last: int


@dataclass(frozen=True)
class KnownSubscription:
    """A sink that gets what is behind `after`; it certainly had everything up to `reached`."""

    since: str
    after: int
    reached: int


@dataclass(frozen=True)
class Account:
    """One journal. Records behind `pruned` are still stored in it, `pending_bytes` of them."""

    path: Path
    key: str
    stream: str
    runs: tuple[KnownRun, ...]
    subscriptions: dict[str, KnownSubscription]
    pruned: int
    pending_bytes: int

    @property
    def last(self) -> int:
        return self.runs[-1].last if self.runs else 0


def journal_paths(settings: Settings) -> list[Path]:
    """The journals of a data folder."""
    return sorted(settings.journal_path("x").parent.glob("*.sqlite"))


def account_of(path: Path) -> Account | None:
    """What a journal knows; None while its producer is just creating it. Raises ToolkitError."""
    with sqlite.errors(path), closing(open_read_only(path)[0]) as connection:
        connection.execute("BEGIN")
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "identities" in tables:
            raise ToolkitError(f"{path} is a journal of the first edition: move it away once its sinks have everything")
        if "facts" not in tables:
            return None
        runs = connection.execute("SELECT producer_id, first, last FROM runs ORDER BY run").fetchall()
        if not runs:
            return None
        ((stream,),) = connection.execute("SELECT value FROM facts WHERE name = 'stream'").fetchall()
        subscribed = connection.execute(
            "SELECT sink, since, after, reached FROM subscriptions ORDER BY rowid"
        ).fetchall()
        ((oldest, size),) = connection.execute("SELECT MIN(last - count), total(length(lines)) FROM batches").fetchall()
    return Account(
        path=path,
        key=runs[0][0].rpartition("-")[0],
        stream=stream,
        runs=tuple(KnownRun(*run) for run in runs),
        subscriptions={sink: KnownSubscription(*rest) for sink, *rest in subscribed},
        pruned=runs[-1][2] if oldest is None else oldest,
        pending_bytes=int(size),
    )


def accounts(settings: Settings) -> list[Account]:
    """All journals of a data folder. Raises ToolkitError."""
    return [account for path in journal_paths(settings) if (account := account_of(path))]


def dead_letters(path: Path) -> Iterator[tuple[str, int]]:
    """The ids in a file of dead letters."""
    if not path.exists():
        return
    with path.open("rb") as lines:
        yield from filter(None, map(identity_of, lines))


def stream_names(settings: Settings) -> list[str]:
    """Every stream that the data folder knows: buzz, those with a schema file, those of its journals."""
    declared = [path.stem for path in sorted(settings.schema_folder.glob("*.json"))]
    return list(dict.fromkeys([BUZZ.name, *declared, *(account.stream for account in accounts(settings))]))


def stream_of(name: str, settings: Settings, sinks: Iterable[str] = ALL) -> Stream:
    """A stream by its schema file, else inferred from a sink that has records; without any it has no fields."""
    for sink in sinks:
        with suppress(Unavailable):
            return find_stream(name, settings, sink)
    return Stream(name)


def audited_sinks(settings: Settings) -> tuple[str, ...]:
    """The sinks that any journal subscribes; without journals the embedded ones that exist.

    Raises ToolkitError if there is none.
    """
    subscribed = {sink for account in accounts(settings) for sink in account.subscriptions}
    streams = [stream_of(name, settings, EMBEDDED) for name in stream_names(settings)]
    found = tuple(sink for sink in ALL if sink in subscribed) or tuple(
        name
        for name, sink in SINKS.items()
        if any((path := sink.path(settings, stream)) and path.exists() for stream in streams)
    )
    if not found:
        raise ToolkitError(f"nothing to audit: no journal and no sink in {settings.data_path} (see --data-dir)")
    return found
