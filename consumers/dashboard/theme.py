"""Colours, sizes, fonts and where everything goes."""

from dataclasses import dataclass
from typing import Literal

ThemeName = Literal["light", "dark"]

DEFAULT_SIZE = (12.8, 7.2)
DPI = 100
FONTS = ("Inter", "Segoe UI", "Helvetica Neue", "Roboto", "Noto Sans", "Liberation Sans", "Arial", "DejaVu Sans")
FOREIGN_FONTS = ("Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC")

TITLE, PILL, TILE_LABEL, TILE_VALUE, PANEL_TITLE, SUBTITLE, TICK, LABEL, NOTICE = 17, 10, 8, 14.5, 12.5, 9.5, 9, 9.5, 11


class Theme:
    """Colours of the light theme; `Dark` has the same names."""

    page = "#F3F5F8"
    card = "#FFFFFF"
    ink = "#17202B"
    muted = "#5B6775"
    grid = "#E6EAEF"
    raw = "#9AA5B1"
    accent = "#0072B2"
    area = "#DCEBF5"
    bars = "#8CBEDC"
    positive = "#007A5A"
    positive_zone = "#E9F5F1"
    negative = "#B84A00"
    negative_zone = "#FCEFE6"
    p95 = "#8F3F76"
    sigma = "#EAF2F8"
    stale = "#8A5A00"
    stale_ground = "#FFF1CC"
    live = "#00694D"
    live_ground = "#DDF3EB"
    waiting = "#4A5563"
    waiting_ground = "#E6EAEF"
    other = "#B4BDC8"


class Dark(Theme):
    """Colours of the dark theme."""

    page = "#0E1319"
    card = "#171E27"
    ink = "#E8EDF3"
    muted = "#A3AFBD"
    grid = "#283241"
    raw = "#65727F"
    accent = "#56B4E9"
    area = "#1D3547"
    bars = "#346180"
    positive = "#3CCFA4"
    positive_zone = "#16302C"
    negative = "#FF9B66"
    negative_zone = "#352318"
    p95 = "#E596C7"
    sigma = "#1B2C3A"
    stale = "#FFCF66"
    stale_ground = "#40330F"
    live = "#5FE0B8"
    live_ground = "#12382F"
    waiting = "#C3CCD6"
    waiting_ground = "#2B3543"
    other = "#4C5866"


THEMES: dict[ThemeName, type[Theme]] = {"light": Theme, "dark": Dark}


@dataclass(frozen=True)
class Rect:
    """A rectangle in inches from the lower left corner of the picture."""

    x: float
    y: float
    w: float
    h: float

    @property
    def right(self) -> float:
        return self.x + self.w

    @property
    def top(self) -> float:
        return self.y + self.h

    def inset(self, left: float, top: float, right: float, bottom: float) -> "Rect":
        """What is left inside these margins, never smaller than a hair."""
        return Rect(self.x + left, self.y + bottom, max(self.w - left - right, 0.01), max(self.h - top - bottom, 0.01))


@dataclass(frozen=True)
class Layout:
    """Where header, health strip and the four cards go, and the factor `k` of all lengths and fonts."""

    k: float
    header: Rect
    strip: Rect
    cards: tuple[Rect, Rect, Rect, Rect]


def layout(width: float, height: float) -> Layout:
    """Divide a picture of this size in inches."""
    k = min(max(min(width / DEFAULT_SIZE[0], height / DEFAULT_SIZE[1]), 0.8), 1.6)
    pad = 0.2 * k
    inner = max(width - 2 * pad, 0.1)
    header = Rect(pad, height - 0.66 * k, inner, 0.66 * k)
    strip = Rect(pad, header.y - 0.82 * k, inner, 0.82 * k)
    card_height = max((strip.y - 3 * pad) / 2, 0.05)
    left_width = (inner - pad) * 0.56
    right_x, right_width = pad + left_width + pad, (inner - pad) * 0.44
    upper, lower = strip.y - pad - card_height, strip.y - 2 * pad - 2 * card_height
    return Layout(
        k,
        header,
        strip,
        (
            Rect(pad, upper, left_width, card_height),
            Rect(right_x, upper, right_width, card_height),
            Rect(pad, lower, left_width, card_height),
            Rect(right_x, lower, right_width, card_height),
        ),
    )
