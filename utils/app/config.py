"""All settings: option, environment variable, default and help text. Only this module reads the environment."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, get_type_hints
from urllib.parse import unquote

from cyclopts import Group, Parameter
from cyclopts.validators import Number

from utils.app.env_file import read_env_file
from utils.app.errors import ToolkitError
from utils.app.options import NOT_NEGATIVE, POSITIVE, whole

VERSION = "0.2.0"
PROJECT_DIR = Path(__file__).resolve().parents[2]

DEFAULT_STREAM = "buzz"
"""The default stream of every command. It keeps the names that buzzline-05 gave to file, table and topic."""


def _expand_home(path: Path | str) -> Path:
    """Replace a leading `~` by the home folder: the shell does not do it in `.env` or after `--data-dir=`."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises if the user of ~user is unknown)


_SHARED = Group("Shared options", sort_key=1)
_SINKS = Group("Sink settings", sort_key=2)


def _option(variable: str, help: str, group: Group = _SINKS, limits: Number | None = None) -> Parameter:
    """Define an option that the environment and `.env` can set too. With `limits` its value is a whole number."""
    return Parameter(env_var=variable, group=group, help=help, converter=limits and whole, validator=limits)


_DATA_DIR = _option("BASE_DATA_DIR", "Folder of all data; inside the project if relative.", _SHARED)
_LOG_LEVEL = _option("LOG_LEVEL", "Lowest level of the log lines that are printed and kept in logs/.", _SHARED)
_LIVE_FILE = _option("LIVE_DATA_FILE_NAME", "JSON lines file of the file sink.")
_SQLITE_FILE = _option("SQLITE_DB_FILE_NAME", "Database of the SQLite sink.")
_DUCKDB_FILE = _option("DUCKDB_DB_FILE_NAME", "Database of the DuckDB sink.")
_BROKER = _option("KAFKA_BROKER_ADDRESS", "host:port of the brokers, comma separated.")
_TOPIC = _option("BUZZ_TOPIC", "Kafka topic.")
_GROUP = _option("BUZZ_CONSUMER_GROUP_ID", "Kafka consumer group.")
_PARTITIONS = _option("KAFKA_PARTITIONS", "Partitions of a missing topic that a producer creates.", limits=POSITIVE)
_COPIES = "Copies of each partition of such a topic; 0 = the brokers' default."
_REPLICATION = _option("KAFKA_REPLICATION", _COPIES, limits=NOT_NEGATIVE)
_JOURNAL_MAX = _option("JOURNAL_MAX_MB", "MiB a journal holds before the producer waits.", _SHARED, POSITIVE)


@Parameter(name="*")
@dataclass(frozen=True)
class Settings:
    """The settings that commands share. A relative folder is inside the project, a relative file in `data_dir`."""

    data_dir: Annotated[Path, _DATA_DIR] = Path("data")
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], _LOG_LEVEL] = "INFO"
    live_file: Annotated[Path, _LIVE_FILE] = Path("project_live.json")
    sqlite_file: Annotated[Path, _SQLITE_FILE] = Path("buzz.sqlite")
    duckdb_file: Annotated[Path, _DUCKDB_FILE] = Path("buzz.duckdb")
    kafka_broker: Annotated[str, _BROKER] = "localhost:9092"
    topic: Annotated[str, _TOPIC] = "buzzline_db"
    group: Annotated[str, _GROUP] = "buzz_group_db"
    kafka_partitions: Annotated[int, _PARTITIONS] = 4
    kafka_replication: Annotated[int, _REPLICATION] = 0
    journal_max_mb: Annotated[int, _JOURNAL_MAX] = 1024

    def in_folder(self, folder: Path, topic: str) -> "Settings":
        """Return a copy that keeps all data in `folder`, with `topic` as the names of Kafka topic and group."""
        files = {name: getattr(DEFAULTS, name) for name in FILES}
        return replace(self, data_dir=folder, topic=topic, group=topic, **files)

    def variables(self) -> dict[str, str]:
        """Return the environment variable of each setting with the setting's value as text."""
        hints = get_type_hints(Settings, include_extras=True)
        return {hint.__metadata__[0].env_var[0]: str(getattr(self, name)) for name, hint in hints.items()}

    @property
    def data_path(self) -> Path:
        return PROJECT_DIR / _expand_home(self.data_dir)

    @property
    def schema_folder(self) -> Path:
        """Folder of the schema files of all streams."""
        return self.data_path / "streams"

    def file_path(self, stream: str) -> Path:
        """Return the path of a stream's JSON lines file."""
        return self.live_path if stream == DEFAULT_STREAM else self.data_path / f"{stream}.jsonl"

    def topic_of(self, stream: str) -> str:
        """Return the Kafka topic of a stream."""
        return self.topic if stream == DEFAULT_STREAM else stream

    def group_of(self, stream: str) -> str:
        """Return the Kafka consumer group that reads a stream."""
        return self.group if stream == DEFAULT_STREAM else f"{self.group}-{stream}"

    @property
    def live_path(self) -> Path:
        return self.data_path / _expand_home(self.live_file)

    @property
    def sqlite_path(self) -> Path:
        return self.data_path / _expand_home(self.sqlite_file)

    @property
    def duckdb_path(self) -> Path:
        return self.data_path / _expand_home(self.duckdb_file)

    def journal_path(self, name: str) -> Path:
        return self.data_path / "journal" / f"{name}.sqlite"

    def dead_letter_path(self, sink: str) -> Path:
        return self.data_path / "dead_letter" / f"{sink}.jsonl"

    @property
    def alerts_path(self) -> Path:
        """The file that gets the alerts of all streams. It can be read as stream `alerts`, but not produced to."""
        return self.data_path / "alerts.jsonl"

    def processed_path(self, source: str, stream: str = DEFAULT_STREAM) -> Path:
        """Return the path of the processed store of the consumer that reads `source`."""
        name = source if stream == DEFAULT_STREAM else f"{stream}-{source}"
        return self.data_path / "processed" / f"{name}.sqlite"


DEFAULTS = Settings()

FILES = ("live_file", "sqlite_file", "duckdb_file")
KAFKA = ("kafka_broker", "topic")
READING = (*FILES, *KAFKA)
PRODUCING = (*READING, "kafka_partitions", "kafka_replication", "journal_max_mb")
PRODUCING_STREAM = tuple(name for name in PRODUCING if name not in ("live_file", "topic"))  # both are for buzz


class Reads:
    """Annotation that names the settings for which a command has options, besides data folder and log level.

    Use: `settings: Annotated[Settings, Reads("live_file")] = DEFAULTS`. Without it a command has options for all.
    """

    def __init__(self, *names: str) -> None:
        self.names = ("data_dir", "log_level", *names)


def narrow_settings(command: Callable[..., int]) -> Callable[..., int]:
    """Remove the options for settings that the command's `Reads` does not name, which then have their defaults."""
    hints = get_type_hints(command, include_extras=True)
    reads = [each for each in getattr(hints.get("settings"), "__metadata__", ()) if isinstance(each, Reads)]
    if reads:
        hidden = [
            (each.name, Annotated[type(each.default), Parameter(parse=False, env_var=())], each.default)
            for each in fields(Settings)
            if each.name not in reads[0].names
        ]
        view = make_dataclass("Settings", hidden, bases=(Settings,), frozen=True, namespace={"__module__": __name__})
        command.__annotations__ = hints | {"settings": Parameter(name="*")(view)}
    return command


KAFKA_SECURITY = {
    "KAFKA_SECURITY_PROTOCOL": "security.protocol",
    "KAFKA_SASL_MECHANISM": "sasl.mechanism",
    "KAFKA_USERNAME": "sasl.username",
    "KAFKA_PASSWORD": "sasl.password",
    "KAFKA_CA_FILE": "ssl.ca.location",
}
"""Variables for a protected cluster and the names of librdkafka's options. librdkafka checks the values."""


def kafka_security(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return librdkafka's options for a protected cluster. They come from the environment or .env, never from options.

    Raises ToolkitError for a SASL mechanism that librdkafka or kafka-python does not support.
    """
    found = {option: value for name, option in KAFKA_SECURITY.items() if (value := environment.get(name))}
    if "security.protocol" in found:
        found["security.protocol"] = found["security.protocol"].upper()  # kafka-python takes only upper case
    if found.get("security.protocol", "").startswith("SASL"):
        found.setdefault("sasl.mechanism", "PLAIN")
    if (mechanism := found.get("sasl.mechanism", "PLAIN")) not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        raise ToolkitError(f"KAFKA_SASL_MECHANISM is {mechanism}: use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
    if "ssl.ca.location" in found:
        found["ssl.ca.location"] = str(_expand_home(found["ssl.ca.location"]))
    return found


TOKEN_VARIABLE = "FEED_TOKEN"


def feed_token(environment: Mapping[str, str] = os.environ) -> str:
    """Return the token that clients of an HTTP feed must send; "" = no token. Like passwords it has no option.

    Raises ToolkitError if the token cannot be sent in an HTTP header.
    """
    token = environment.get(TOKEN_VARIABLE, "")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ToolkitError(f"{TOKEN_VARIABLE} has spaces or characters that are not ASCII: choose another one")
    return token


STORE_VARIABLE = "PROCESSED_STORE_URL"
_STORE_URL = re.compile(
    r"postgres(ql)?://([^@/?#\s]*@)?(?P<hosts>[\w.-]*(:\d{1,5})?(,[\w.-]+(:\d{1,5})?)*|\[[0-9a-fA-F:.]+\](:\d{1,5})?)"
    r"(/(?P<database>[^@/?#\s]*))?(\?[^@#\s]*)?"
)
_STORE_PASSWORDS = re.compile(r"//[^:@/]*:(.+)@|[?&]password=([^&]+)")


@dataclass(frozen=True)
class StoreUrl:
    """Address of a PostgreSQL database that machines share. `text` may contain a password, `place` is for messages."""

    text: str = field(repr=False)
    place: str


def processed_store_url(environment: Mapping[str, str] = os.environ) -> StoreUrl | None:
    """Return the database that machines share for processed stores; None = a SQLite file each. No option sets it.

    Raises ToolkitError, which does not show the value, if it is not the address of a PostgreSQL database.
    """
    text = environment.get(STORE_VARIABLE, "")
    if not text:
        return None
    found = _STORE_URL.fullmatch(text)
    if not found or re.search(r"%(?![0-9A-Fa-f]{2})|%00", text):
        raise ToolkitError(
            f"{STORE_VARIABLE} is not postgresql://USER:PASSWORD@HOST:PORT/DATABASE; in the password write "
            "the characters @ : / ? # % as %40 %3A %2F %3F %23 %25"
        )
    return StoreUrl(text, f"{found['hosts'] or 'local'}/{unquote(found['database'] or '')}")


def passwords(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the texts to mask in all output: passwords, the token, the store's address if it has a password."""
    text = environment.get(STORE_VARIABLE, "")
    found = [each for pair in _STORE_PASSWORDS.findall(text) for each in pair if each]
    of_store = (text, *found, *map(unquote, found)) if found else ()
    return (environment.get("KAFKA_PASSWORD", ""), environment.get(TOKEN_VARIABLE, ""), *of_store)


def variables() -> dict[str, str]:
    """Return every variable with its default as text, in the order of .env.example."""
    found = {"MESSAGE_INTERVAL_SECONDS": "5", **DEFAULTS.variables()}
    found |= dict.fromkeys([*KAFKA_SECURITY, TOKEN_VARIABLE, STORE_VARIABLE], "")
    return found | {"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}


def load_env_file() -> None:
    """Set the environment variables that only `.env` has. Raises ToolkitError like `read_env_file`.

    A variable of the environment that is empty counts as not set.
    """
    for name in variables():
        if not os.environ.get(name, "set"):
            del os.environ[name]
    for name, value in read_env_file(PROJECT_DIR)[1].items():
        os.environ.setdefault(name, value)


def isolate_matplotlib(style: Path) -> str | None:
    """Make matplotlib read `style` instead of MPLBACKEND and the user's matplotlibrc, and return MPLBACKEND.

    Call it before matplotlib is imported: the import fails if one of them is wrong.
    """
    os.environ["MATPLOTLIBRC"] = str(style)
    return os.environ.pop("MPLBACKEND", None)
