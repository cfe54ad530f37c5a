"""The registry: which class writes and which reads each sink. A new sink is one case in both functions."""

from collections.abc import Callable
from functools import partial

from utils.app.config import EMBEDDED_SINKS, Settings
from utils.emitters.base import Connect, Emitter
from utils.sources.base import Resume, Source


def emitter(sink: str, settings: Settings, since: Callable[[], float | None] = lambda: None) -> Connect:
    """A constructor of this sink's emitter; importing and opening happen when it is called.

    `since` tells before when (epoch seconds) the sink certainly got nothing from this producer, None = unknown.
    """

    def connect() -> Emitter:
        match sink:
            case "file":
                from utils.emitters.file_emitter import FileEmitter

                return FileEmitter(settings.live_path)
            case "sqlite":
                from utils.emitters.sqlite_emitter import SqliteEmitter

                return SqliteEmitter(settings.sqlite_path)
            case "duckdb":
                from utils.emitters.duckdb_emitter import DuckdbEmitter

                return DuckdbEmitter(settings.duckdb_path)
            case "kafka":
                from utils.emitters.kafka_emitter import KafkaEmitter

                return KafkaEmitter(settings, since())
        raise ValueError(f"no emitter for sink {sink!r}")

    return connect


def source(sink: str, settings: Settings, resume: Resume, *, finished: bool = False, shared: bool = False) -> Source:
    """The reader of a sink (or of `auto`, the best one available); opens at the first poll.

    `finished` says that whoever reads stops at the present end: a last line that lacks its newline counts.
    `shared` lets readers divide a Kafka topic among them, as members of `settings.group`.
    """
    match sink:
        case "file":
            from utils.sources.file_source import FileSource

            return FileSource([settings.live_path], resume, finished=finished)
        case "sqlite":
            from utils.sources.sqlite_source import SqliteSource

            return SqliteSource(settings.sqlite_path, resume)
        case "duckdb":
            from utils.sources.duckdb_source import DuckdbSource

            return DuckdbSource(settings.duckdb_path, resume)
        case "kafka":
            from utils.sources.kafka_source import KafkaSource

            return KafkaSource(settings, resume, settings.group if shared else None, finished=finished)
        case "auto":
            from utils.sources.auto_source import AutoSource, require_answer

            def open_one(name: str) -> Source:
                if name == "kafka":
                    require_answer(settings.kafka_broker)
                return source(name, settings, resume, finished=finished)

            return AutoSource({name: partial(open_one, name) for name in ("kafka", *EMBEDDED_SINKS)})
    raise ValueError(f"no source for sink {sink!r}")
