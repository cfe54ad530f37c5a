"""Options of the dashboard: which fields of a stream are charted, and how."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from utils.app.errors import ToolkitError
from utils.app.options import POSITIVE, whole
from utils.records.stream import Stream, check_roles

ThemeName = Literal["light", "dark"]
Length = Annotated[int, Parameter(converter=whole, validator=Number(gt=0, lte=10_000))]
DEFAULT_SIZE = (12.8, 7.2)  # inches
DPI = 100
STYLE = Path(__file__).with_name("light.mplstyle")


@Parameter(name="*")
@dataclass(frozen=True)
class Buffers:
    """Numbers of values that are shown."""

    points: Length = 50
    """Points in the flow panel."""
    window: Length = 30
    """Latest values in trend and histogram."""
    rolling: Annotated[int, Parameter(converter=whole, validator=Number(gt=0, lte=100))] = 10
    """Values in a rolling mean, at most 100."""


DEFAULT_BUFFERS = Buffers()


@Parameter(name="*")
@dataclass(frozen=True)
class DashboardOptions:
    """Options of one dashboard, which ends after `frames` or `duration`, whichever comes first.

    Fields without an option are chosen from the records. Raises ToolkitError if options contradict each other.
    """

    by: str | None = None
    """Text field with a bar and a line for each value."""
    value: str | None = None
    """Number field of the trend."""
    histogram: str | None = None
    """Number field of the histogram."""
    zones: Annotated[tuple[float, float] | None, Parameter(allow_leading_hyphen=True)] = None
    """Two limits of the value, the lower first."""
    where: str | None = None
    """Show only records that match this SQL condition over the fields."""
    buffers: Buffers = DEFAULT_BUFFERS
    theme: ThemeName | None = None
    """Colours; default: light, on the served page those of the browser's system."""
    backend: Annotated[str | None, Parameter(env_var="MPLBACKEND")] = None
    """Matplotlib backend; Agg draws without a window."""
    size: Annotated[tuple[float, float], Parameter(validator=Number(gte=4, lte=80))] = DEFAULT_SIZE
    """Width and height in inches of 100 pixels each, 4 to 80."""
    serve: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=(0, 1))] = None
    """Serve a page to browsers at PORT or ADDRESS:PORT; default: 127.0.0.1:8765."""
    allow_host: Annotated[tuple[str, ...], Parameter(show_default=False)] = ()
    """Another host name of the served page, besides those of this machine."""
    save: Path | None = None
    """Record to this .gif or .mp4, or keep the image in this .png."""
    frames: Annotated[int | None, Parameter(converter=whole, validator=POSITIVE)] = None
    """Stop after this many frames."""
    duration: Annotated[float | None, Parameter(validator=POSITIVE)] = None
    """Stop after this many seconds."""
    refresh: Annotated[float, Parameter(validator=Number(gt=0, lte=600))] = 2.0
    """Seconds between frames, at most 600."""  # a GIF can hold a frame for less than 656 s

    def __post_init__(self) -> None:
        if self.serve is not None and self.save:
            raise ToolkitError("--serve and --save: give one of them; a second dashboard can do the other")

    def roles(self, stream: Stream) -> Stream:
        """Return the stream with the roles that options name. Raises ToolkitError with the usable fields otherwise."""
        named = {name: getattr(self, name) for name in ("by", "value", "histogram") if getattr(self, name)}
        zones = self.zones or (None if "value" in named else stream.zones)
        chosen = replace(stream, zones=zones, **named)
        check_roles(chosen, f"the dashboard of stream {stream.name}")
        return chosen
