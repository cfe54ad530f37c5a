"""The options that several commands share, and how their values are checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token
from cyclopts.validators import Number

NOT_NEGATIVE, POSITIVE = Number(gte=0, lte=10**9), Number(gt=0, lte=10**12)  # nobody can wait for more seconds


def whole(_: Any, tokens: Sequence[Token]) -> int:
    """The parser's own conversion would round 1.5 to 2."""
    try:
        return int(tokens[0].value)
    except ValueError as error:
        raise ValueError(f'unable to convert "{tokens[0].value}" into int') from error


def _whole(name: str, help: str, least: Number | None = None) -> Parameter:
    return Parameter(name=name, converter=whole, validator=least, help=help)


def _seconds(name: str, help: str, variable: str | None = None) -> Parameter:
    return Parameter(name=name, env_var=variable, validator=NOT_NEGATIVE, help=help)


def optional(help: str, name: str | None = None) -> Parameter:
    """What is shown without its default, which is nothing; named like what it is given to, or as said."""
    return Parameter(name=name, show_default=False, help=help)


Interval = Annotated[
    float, _seconds("--interval", "Seconds between records; 0 = full speed.", "MESSAGE_INTERVAL_SECONDS")
]
Count = Annotated[int | None, _whole("--count", "Stop after this many records.", POSITIVE)]
Seed = Annotated[int | None, _whole("--seed", "The same seed gives the same records, timestamps aside.")]
Drain = Annotated[float, _seconds("--drain", "Seconds to wait at the end for pending deliveries.")]
Speed = Annotated[float, _seconds("--speed", "Times the original speed; 0 = full speed.")]
Begin = Annotated[
    Literal["start", "end"], Parameter(name="--from", help="Where to begin: the first record, or only new ones.")
]
Once = Annotated[bool, optional("Stop at the present end instead of following.", "--once")]
StreamName = Annotated[
    str, Parameter(name="--stream", help="Which stream: its file, tables and topic are named after it.")
]
Json = Annotated[bool, optional("Print JSON for programs.", "--json")]


@Parameter(name="*")
@dataclass(frozen=True)
class Reading:
    """What every consumer with a processed store can be told."""

    start: Annotated[
        Begin, Parameter(help="Where to begin without a stored position: the first record, or only new ones.")
    ] = "start"
    once: Once = False
    count: Count = None
    json: Json = False


FOLLOWING = Reading()
