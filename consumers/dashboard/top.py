"""What stands above the panels, header and health strip: made once, `update(snapshot)` moves their artists."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from matplotlib.text import Text

from consumers.dashboard import stats, theme, words
from consumers.dashboard.ink import Group, Ink, font
from consumers.dashboard.state import Snapshot
from consumers.dashboard.theme import Rect


class Header:
    """Title, local time and the status pill; in a window also what the keys do."""

    def __init__(self, ink: Ink, rect: Rect, help_line: str) -> None:
        k, colours = ink.k, ink.colours
        self._ink, self._right, self._help_line = ink, rect.right, help_line
        self._y = y = rect.top - 0.355 * k
        title, left = "Streaming Dashboard", rect.x + 0.05 * k
        ink.text(left, y, theme.TITLE, colours.ink, title, bold=True)
        self._left = left = left + ink.width(title, theme.TITLE, True) + 0.3 * k
        self._help = ink.text(left, y - 0.02 * k, theme.TICK, colours.muted, help_line)
        self._clock = ink.text(0, y, theme.LABEL + 0.5, colours.muted, ha="right")
        self._pill = ink.box(Rect(left, y - 0.13 * k, k, 0.26 * k), colours.page, radius=0.12, zorder=0)
        self._dot = ink.line([0], [y], colours.ink, marker="o", ms=4.5 * k, mew=0)
        right = rect.right - 0.06 * k
        self._status = ink.text(right, y - 0.005 * k, theme.PILL, colours.ink, ha="right", bold=True)
        ground = Rect(left, rect.y + 0.02, max(rect.right - left, 0.01), rect.h - 0.04)
        self.group = Group(ink, ground, colours.page, [self._help, self._clock, self._pill, self._dot, self._status])

    def update(self, snapshot: Snapshot, paused: bool) -> None:
        ink, k, right = self._ink, self._ink.k, self._right
        text = "PAUSED \u00b7 space resumes" if paused else words.status(snapshot)
        state = "waiting" if paused else snapshot.status.lower()
        colour, width = getattr(ink.colours, state), ink.width(text, theme.PILL, True)
        self._status.set(text=text, color=colour)
        self._dot.set(color=colour, xdata=[right - 0.18 * k - width])
        left = right - width - 0.29 * k
        self._pill.set_facecolor(getattr(ink.colours, f"{state}_ground"))
        self._pill.set_bounds(left, self._y - 0.13 * k, right - left, 0.26 * k)
        now = words.moment(snapshot.now)
        self._clock.set(text=now, x=left - 0.26 * k)
        free = left - 0.56 * k - ink.width(now, theme.LABEL + 0.5) - self._left
        self._clock.set_visible(free > -0.3 * k)
        self._help.set_visible(ink.width(self._help_line, theme.TICK) < free)
        self.group.key = (now, text)


@dataclass(frozen=True)
class _Tile:
    """One figure of the health strip; `room` inches are free for its texts, `groups` hold value and detail."""

    value: Text
    detail: Text
    room: float
    groups: tuple[Group, Group]


class HealthStrip:
    """Source, throughput, lag, bad records, age of the last message, uptime: told in words, then in colour.

    What is said comes in several forms, longest first, and the first with room is taken. Values are all of one
    size. A strip too narrow for all tiles leaves some out.
    """

    # Forms of the title, unscaled inches that its texts need, share of the room beyond.
    TILES: ClassVar[dict[str, tuple[Sequence[str], float, float]]] = {
        "SOURCE": (("SOURCE",), 0.95, 0.26),
        "THROUGHPUT": (("THROUGHPUT",), 1.15, 0.25),
        "LAG": (("LAG",), 0.85, 0.11),
        "BAD": (("INVALID / LOST / DUPLICATE", "BAD / LOST / DUP"), 1.1, 0.14),
        "LAST": (("LAST MESSAGE", "LAST"), 1.0, 0.11),
        "UPTIME": (("UPTIME",), 1.0, 0.13),
    }
    LEFT_OUT = ("UPTIME", "LAG", "THROUGHPUT")
    PAD = 0.26
    VALUE_SIZES = (theme.TILE_VALUE, 13, 11.5, 10)
    SPARK = 0.4, 0.83

    def __init__(self, ink: Ink, rect: Rect) -> None:
        k, colours = ink.k, ink.colours
        self._ink = ink
        ink.box(rect, colours.card)
        self._tiles: dict[str, _Tile] = {}
        shown = dict(self.TILES)
        for name in self.LEFT_OUT:
            if self._spare(shown, rect.w / k) < 0:
                del shown[name]
        spare = max(self._spare(shown, rect.w / k), 0.0) / sum(share for _, _, share in shown.values())
        x = rect.x
        for name, (titles, need, share) in shown.items():
            left, room = x + 0.2 * k, (need + share * spare) * k
            tile, side = Rect(x, rect.y, room + self.PAD * k, rect.h), 0.06 * k
            title = ink.best(titles, room, theme.TILE_LABEL, True)
            label = ink.text(left, rect.top - 0.17 * k, theme.TILE_LABEL, colours.muted, title, bold=True)
            value = ink.text(left, rect.top - 0.42 * k, theme.TILE_VALUE, colours.ink, bold=True)
            below = ink.text(left, rect.top - 0.66 * k, theme.TICK, colours.muted)
            if x > rect.x:
                ink.line([x, x], [rect.y + 0.14 * k, rect.top - 0.14 * k], colours.grid, lw=k)
            spark = name == "THROUGHPUT"  # its line reaches up beside the title
            upper = Group(ink, tile.inset(side, side if spark else 0.27 * k, side, 0.28 * k), colours.card, [value])
            lower = Group(ink, tile.inset(side, 0.55 * k, side, side), colours.card, [below])
            if spark:
                self._spark = ink.line([], [], colours.accent, lw=1.5 * k, solid_joinstyle="round")
                self._spark_end = ink.line([], [], colours.accent, marker="o", ms=5 * k, mew=0)
                self._spark_y = rect.top - 0.5 * k
                upper.artists += [label, self._spark, self._spark_end]
            self._tiles[name] = _Tile(value, below, room, (upper, lower))
            x = tile.right
        self.groups = [group for tile in self._tiles.values() for group in tile.groups]

    def _spare(self, shown: dict[str, tuple[Sequence[str], float, float]], width: float) -> float:
        return width - sum(need + self.PAD for _, need, _ in shown.values())

    def update(self, snapshot: Snapshot, refresh_s: float, frame_s: float | None) -> None:
        ink = self._ink
        said = self._said(snapshot, refresh_s, frame_s)
        tiles = [(name, tile, *said[name]) for name, tile in self._tiles.items()]
        sizes = (
            size
            for size in self.VALUE_SIZES
            if all(ink.width(values[-1], size, True) <= tile.room for _, tile, values, _, _ in tiles)
        )
        size = next(sizes, self.VALUE_SIZES[-1])
        for name, tile, values, details, colour in tiles:
            text = ink.best(values, tile.room, size, True)
            tile.value.set(text=text, color=colour, fontproperties=font(size * ink.k, True))
            tile.groups[0].key = (text, size, colour, snapshot.sparkline if name == "THROUGHPUT" else None)
            lineless = name == "THROUGHPUT" and not self._draw_spark(snapshot, tile, ink.width(text, size, True))
            forms = details[-1:] if lineless else details
            fits = any(ink.width(form, theme.TICK) <= tile.room for form in forms)
            small = theme.TICK if fits else theme.TILE_LABEL
            detail = ink.best(forms, tile.room, small, lines=2)
            tile.detail.set(text=detail, fontproperties=font(small * ink.k))
            tile.groups[1].key = detail

    def _said(
        self, snapshot: Snapshot, refresh_s: float, frame_s: float | None
    ) -> dict[str, tuple[Sequence[str], Sequence[str], str]]:
        """Forms of the value and of the line below, longest first, and the value's colour, of each tile."""
        colours, now = self._ink.colours, snapshot.now
        dim = colours.muted if snapshot.last is None else colours.ink
        lag = "\u2013"
        lag_below: Sequence[str] = ("event time to screen", "event to screen", "to screen")
        if snapshot.lags:
            found = stats.summary(snapshot.lags)
            lag, p95 = words.lags(found.median, found.p95)
            lag_below = (f"p95 {p95}",)
        bad = [snapshot.invalid, snapshot.lost, snapshot.duplicate]
        records = f"of {snapshot.total + snapshot.invalid + snapshot.duplicate:,}"
        last: Sequence[str] = ("none yet",)
        at: Sequence[str] = ("",)
        if snapshot.last is not None:
            age, clock = words.span(snapshot.idle_s), words.clock(snapshot.last, now)
            last, at = (f"{age} ago", age), (f"at {clock}", clock, clock[-11:])
        every, rate = f"every {refresh_s:g} s", words.rate(snapshot.rate)
        frame = () if frame_s is None else (f"{every}, frame {frame_s * 1000:.0f} ms",)
        source = words.source_line(snapshot)
        file = source if " " in source else source.rpartition("/")[2]
        trouble = snapshot.trouble_since is not None
        return {
            "SOURCE": ((words.source(snapshot),), (source, file), colours.stale if trouble else colours.ink),
            "THROUGHPUT": ((rate, rate.replace(" msg", "")), ("60 s mean; line 5 min", "60 s mean"), dim),
            "LAG": ((lag,), lag_below, dim if snapshot.lags else colours.muted),
            "BAD": (
                (" / ".join(f"{count:,}" for count in bad), " / ".join(map(words.brief, bad))),
                (f"{records} received", records),
                colours.stale if any(bad) else dim,
            ),
            "LAST": (last, at, colours.stale if snapshot.status == "STALE" else dim),
            "UPTIME": ((words.span(now - snapshot.started),), (*frame, every), colours.ink),
        }

    def _draw_spark(self, snapshot: Snapshot, tile: _Tile, value_width: float) -> bool:
        """Draw the line right of the value and say whether there was something to draw and room for it."""
        ink, k, (least, most) = self._ink, self._ink.k, self.SPARK
        taken = max(value_width, ink.width("THROUGHPUT", theme.TILE_LABEL, True))
        wide = min(tile.room - taken - 0.2 * k, most * k)
        visible = any(snapshot.sparkline) and wide >= least * k
        rates = np.asarray(snapshot.sparkline)
        xs = tile.value.get_position()[0] + tile.room - 0.1 * k + np.linspace(-wide, 0, len(rates))
        ys = self._spark_y + rates / max(rates.max(), 1e-9) * 0.32 * k
        self._spark.set(data=(xs, ys), visible=visible)
        self._spark_end.set(data=(xs[-1:], ys[-1:]), visible=visible)
        return visible
