"""Light and dark: matplotlib style sheets, and the colours that carry a meaning."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager

from consumers.dashboard.options import ThemeName

# matplotlib's own is wide: texts have room in whatever font a browser shows them. The others have more letters.
FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC")
MARKERS = "os^Dv"  # of several series, whose colours are those of the style sheets (Okabe and Ito)


@dataclass(frozen=True)
class Palette:
    """Colours beyond the style sheet, those of the light one; where there are two, of text and background."""

    card: str = "#FFFFFF"
    text: str = "#17202B"
    muted: str = "#5B6775"
    raw: str = "#9AA5B1"
    area: str = "#DCEBF5"
    other: str = "#B4BDC8"
    positive: tuple[str, str] = ("#007A5A", "#E9F5F1")
    negative: tuple[str, str] = ("#B84A00", "#FCEFE6")
    p95: str = "#8F3F76"
    sigma: str = "#EAF2F8"
    live: tuple[str, str] = ("#00694D", "#DDF3EB")
    stale: tuple[str, str] = ("#8A5A00", "#FFF1CC")
    waiting: tuple[str, str] = ("#4A5563", "#E6EAEF")


PALETTES: dict[ThemeName, Palette] = {
    "light": Palette(),
    "dark": Palette(
        card="#171E27", text="#E8EDF3", muted="#A3AFBD", raw="#65727F",
        area="#1D3547", other="#4C5866", positive=("#3CCFA4", "#16302C"), negative=("#FF9B66", "#352318"),
        p95="#E596C7", sigma="#1B2C3A", live=("#5FE0B8", "#12382F"), stale=("#FFCF66", "#40330F"),
        waiting=("#C3CCD6", "#2B3543"),
    ),
}  # fmt: skip


def style(name: ThemeName) -> Any:
    """Settings of matplotlib: the style sheets, and the fonts that are installed."""
    installed = set(font_manager.get_font_names())
    base, own = (mpl.rc_params_from_file(Path(__file__).with_name(f"{sheet}.mplstyle"), False, False)
                 for sheet in ("base", name))  # fmt: skip
    return {"font.family": [font for font in FONTS if font in installed], **base, **own}


def reset() -> None:
    """Let no matplotlibrc of the user reach the drawing; the backend stays. Once, before anything is drawn."""
    mpl.rcdefaults()
    mpl.rcParams["toolbar"] = "None"
    warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from", category=UserWarning)
    warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
