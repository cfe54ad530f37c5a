"""The dashboard's own options: what of a stream is charted, and how it is drawn."""

from dataclasses import dataclass, replace
from typing import Annotated

from cyclopts import Parameter

from consumers.dashboard.snapshot import ThemeName
from utils.app.config import positive, whole
from utils.app.errors import ToolkitError
from utils.records.schema import check_roles
from utils.records.stream import Stream

DPI = 100


@Parameter(name="*")
@dataclass(frozen=True)
class Charts:
    """What of the stream is charted; fields that nobody names are chosen from what is read."""

    by: str | None = None
    """Text field whose values get a bar and a line each."""
    value: str | None = None
    """Number field of the trend."""
    histogram: str | None = None
    """Number field of the histogram."""
    zones: Annotated[tuple[float, float] | None, Parameter(allow_leading_hyphen=True)] = None
    """Two limits of the value, the lower first."""
    where: str | None = None
    """Show only records for which this SQL over the fields is true."""

    def roles(self, stream: Stream) -> Stream:
        """The stream with the named roles. Raises ToolkitError that names the fields that can be used."""
        named = {name: getattr(self, name) for name in ("by", "value", "histogram") if getattr(self, name)}
        zones = self.zones or (None if "value" in named else stream.zones)
        chosen = replace(stream, zones=zones, **named)
        try:
            check_roles(chosen, "the dashboard's options")
        except ToolkitError as error:
            fields = ", ".join(f"{field.name} ({field.type})" for field in stream.fields)
            raise ToolkitError(f"{error}; stream {stream.name} has the fields {fields}") from error
        return chosen


@Parameter(name="*")
@dataclass(frozen=True)
class Plan:
    """What to draw and how often; it ends after so many frames or seconds, whatever is first."""

    theme: ThemeName | None = None
    """Colours: light unless given; the served page follows the system unless given."""
    size: str = "12.8x7.2"
    """WIDTHxHEIGHT in inches, or in pixels."""
    refresh: Annotated[float, Parameter(validator=positive)] = 2.0
    """Seconds between frames."""
    frames: Annotated[int | None, Parameter(converter=whole, validator=positive)] = None
    """Stop after this many frames."""
    duration: Annotated[float | None, Parameter(validator=positive)] = None
    """Stop after this many seconds."""

    def is_done(self, frames: int, elapsed_s: float) -> bool:
        return (self.frames is not None and frames >= self.frames) or (
            self.duration is not None and elapsed_s >= self.duration
        )

    @property
    def inches(self) -> tuple[float, float]:
        """Width and height; numbers of 100 or more are pixels. Raises ToolkitError."""
        try:
            width, height = (float(part) for part in self.size.lower().split("x"))
        except ValueError:
            width = height = 0.0
        if max(width, height) >= 100:
            width, height = width / DPI, height / DPI
        if not (4 <= width <= 80 and 3 <= height <= 80):
            limits = "from 4x3 to 80x80 inches, or in pixels such as 1920x1080"
            raise ToolkitError(f"--size {self.size}: give WIDTHxHEIGHT {limits}")
        return width, height
