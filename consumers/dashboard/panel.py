"""What the panels share: a card with title and subtitle, and plots or a notice on it.

Artists are made once, `update(snapshot)` moves them; a picture of another size or theme is built anew.
"""

from typing import Any

from consumers.dashboard import theme
from consumers.dashboard.ink import Ink, Plot
from consumers.dashboard.state import Snapshot
from consumers.dashboard.theme import Rect


class Panel:
    """One card: title, subtitle and plots, or a notice while there is nothing to show.

    A new panel is a subclass: `title`, `empty`, artists made in `build`, moved in `draw`. The margins of a
    plot inside the card are left, top, right and bottom in unscaled inches.
    """

    title = ""
    empty = ""
    too_small = "Needs a larger window"
    margins = (0.5, 0.7, 0.5, 0.5)

    def __init__(self, ink: Ink, rect: Rect) -> None:
        self.ink, self.rect, self.k, self.colours = ink, rect, ink.k, ink.colours
        k, muted = self.k, self.colours.muted
        ink.box(rect, self.colours.card)
        left, self.room = rect.x + 0.2 * k, rect.w - 0.4 * k
        self._large = rect.w > 2.8 * k and rect.h > 1.7 * k
        heading = ink.fit(self.title, self.room, theme.PANEL_TITLE, True)
        ink.text(left, rect.top - 0.23 * k, theme.PANEL_TITLE, self.colours.ink, heading, bold=True)
        self._subtitle = ink.text(left, rect.top - 0.465 * k, theme.SUBTITLE, muted)
        style: dict[str, Any] = {"ha": "center", "ma": "center", "linespacing": 1.5}
        self._notice = ink.text(rect.x + rect.w / 2, rect.y + rect.h * 0.46, theme.NOTICE, muted, **style)
        self.plot = Plot(ink, rect.inset(*(margin * k for margin in self.margins)))
        self.plots = [self.plot]
        self.build()

    def build(self) -> None:
        """Make the artists."""

    def draw(self, snapshot: Snapshot) -> None:
        """Move them."""

    def notice(self, snapshot: Snapshot) -> str:
        return self.empty

    def has_data(self, snapshot: Snapshot) -> bool:
        return bool(snapshot.flow)

    def subtitle(self, *parts: str, colour: str = "") -> None:
        """As many parts as there is room for."""
        texts = ["  \u00b7  ".join(parts[:count]) for count in range(len(parts), 0, -1)]
        text = self.ink.best(texts, self.room, theme.SUBTITLE)
        self._subtitle.set(text=text, color=colour or self.colours.muted)

    def update(self, snapshot: Snapshot) -> None:
        filled = self._large and self.has_data(snapshot)
        for plot in self.plots:
            plot.axes.set_visible(filled)
        self._subtitle.set_visible(filled)
        self._notice.set_visible(not filled)
        if filled:
            self.draw(snapshot)
        else:
            lines = (self.notice(snapshot) if self._large else self.too_small).splitlines()
            self._notice.set_text("\n".join(self.ink.fit(line, self.room, theme.NOTICE) for line in lines))
