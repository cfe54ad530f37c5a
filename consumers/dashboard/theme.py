"""Light and dark: a matplotlib style sheet each, and the colours that carry a meaning."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager

from consumers.dashboard.snapshot import ThemeName

# matplotlib's own is wide: texts have room in whatever font a browser shows them. The others have more letters.
FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC")
_LINES = ("#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito
MARKERS = "os^Dv"
DEFAULT_SIZE = (12.8, 7.2)  # inches


@dataclass(frozen=True)
class Palette:
    """Colours beyond the style sheet of the same name; where there are two, of text and background."""

    card: str
    text: str
    muted: str
    raw: str
    accent: str
    area: str
    other: str
    positive: tuple[str, str]
    negative: tuple[str, str]
    p95: str
    sigma: str
    live: tuple[str, str]
    stale: tuple[str, str]
    waiting: tuple[str, str]

    @property
    def lines(self) -> tuple[str, ...]:
        """The colours of several series; markers tell them apart as well."""
        return (self.accent, *_LINES)


PALETTES: dict[ThemeName, Palette] = {
    "light": Palette(
        card="#FFFFFF", text="#17202B", muted="#5B6775", raw="#9AA5B1", accent="#0072B2",
        area="#DCEBF5", other="#B4BDC8", positive=("#007A5A", "#E9F5F1"), negative=("#B84A00", "#FCEFE6"),
        p95="#8F3F76", sigma="#EAF2F8", live=("#00694D", "#DDF3EB"), stale=("#8A5A00", "#FFF1CC"),
        waiting=("#4A5563", "#E6EAEF"),
    ),
    "dark": Palette(
        card="#171E27", text="#E8EDF3", muted="#A3AFBD", raw="#65727F", accent="#56B4E9",
        area="#1D3547", other="#4C5866", positive=("#3CCFA4", "#16302C"), negative=("#FF9B66", "#352318"),
        p95="#E596C7", sigma="#1B2C3A", live=("#5FE0B8", "#12382F"), stale=("#FFCF66", "#40330F"),
        waiting=("#C3CCD6", "#2B3543"),
    ),
}  # fmt: skip


def style(name: ThemeName, scale: float) -> Any:
    """Settings of matplotlib: the style sheet with sizes times `scale`, and the fonts that are installed."""
    sheet: Any = dict(mpl.rc_params_from_file(Path(__file__).with_name(f"{name}.mplstyle"), False, False))
    installed = set(font_manager.get_font_names())
    sizes = {each: sheet[each] * scale for each in ("font.size", "lines.linewidth", "lines.markersize")}
    return sheet | sizes | {"font.family": [font for font in FONTS if font in installed]}


def reset() -> None:
    """Let no matplotlibrc of the user reach the drawing; the backend stays. Once, before anything is drawn."""
    mpl.rcdefaults()
    mpl.rcParams["toolbar"] = "None"
    warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from", category=UserWarning)
    warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
