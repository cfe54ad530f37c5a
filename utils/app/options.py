"""The options that several commands share, with the checks of their values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token
from cyclopts.validators import Number

NOT_NEGATIVE, POSITIVE = Number(gte=0, lte=10**9), Number(gt=0, lte=10**12)  # 10**9 s: waits overflow at 9.2e9 s


def whole(_: Any, tokens: Sequence[Token]) -> int:
    """Convert a value to int, or raise ValueError: cyclopts' own conversion would round 1.5 to 2."""
    try:
        return int(tokens[0].value)
    except ValueError as error:
        raise ValueError(f'unable to convert "{tokens[0].value}" into int') from error


def _whole(name: str, help: str, limits: Number | None = None) -> Parameter:
    return Parameter(name=name, converter=whole, validator=limits, help=help)


def _seconds(name: str, help: str, variable: str | None = None) -> Parameter:
    return Parameter(name=name, env_var=variable, validator=NOT_NEGATIVE, help=help)


def optional(help: str, name: str | None = None) -> Parameter:
    """Define an option without a default to show. Its name is `name`, else that of the annotated parameter."""
    return Parameter(name=name, show_default=False, help=help)


Interval = Annotated[
    float, _seconds("--interval", "Seconds between records; 0 = full speed.", "MESSAGE_INTERVAL_SECONDS")
]
Count = Annotated[int | None, _whole("--count", "Stop after this many records.", POSITIVE)]
Seed = Annotated[int | None, _whole("--seed", "The same seed gives the same records, except for timestamps.")]
Drain = Annotated[float, _seconds("--drain", "Seconds to wait at the end for pending deliveries.")]
Speed = Annotated[float, _seconds("--speed", "Factor of the original speed; 0 = full speed.")]
Begin = Annotated[
    Literal["start", "end"], Parameter(name="--from", help="Where to begin: the first record, or only new ones.")
]
Once = Annotated[bool, optional("Stop at the present end instead of waiting for new records.", "--once")]
StreamName = Annotated[str, Parameter(name="--stream", help="Name of the stream, and of its file, tables and topic.")]
Json = Annotated[bool, optional("Print JSON for programs.", "--json")]


@Parameter(name="*")
@dataclass(frozen=True)
class ReadingOptions:
    """The options of every consumer with a processed store."""

    start: Annotated[
        Begin, Parameter(help="Where to begin without a stored position: the first record, or only new ones.")
    ] = "start"
    once: Once = False
    count: Count = None
    json: Json = False


DEFAULT_READING = ReadingOptions()
