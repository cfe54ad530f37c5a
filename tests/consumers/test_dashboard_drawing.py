"""The drawing, checked by geometry: texts stay inside their cards and apart, values stand at their data."""

import io
import random
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import msgspec
import numpy as np
import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image, ImageChops

from consumers.dashboard import figure
from consumers.dashboard import snapshot as snapshot_module
from consumers.dashboard.figure import Dashboard, column
from consumers.dashboard.options import DEFAULT_SIZE
from consumers.dashboard.panel import ThousandsFormatter
from consumers.dashboard.panels import PANELS
from consumers.dashboard.snapshot import Snapshot, Source, brief, clock, plain
from consumers.dashboard.state import State
from producers import sensor_producer
from scripts.make_pictures import Scene, draw, examples, scenes
from tests.helpers import make_messages
from utils.app import cli
from utils.app.config import PROJECT_DIR
from utils.reading.expression import Expression
from utils.records.codec import Field
from utils.records.instants import instant_text, local_time
from utils.records.stream import BUZZ, Stream
from utils.sources.base import Chunk

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("drawing")]  # each scene is made once

SIZES: dict[str, dict[str, Any]] = {
    "standard": {},
    "small": {"size": (8.0, 6.0)},
    "large": {"size": (19.2, 10.8)},
    "wide": {"size": (16.0, 6.0)},
    "column": {"size": column()},
}
CRAMPED = ("standard", "small", "column")
"""The size with least room; at the other sizes one scene of each kind is drawn."""
NOW = 1_800_000_000.0
HARD_NAMES = [
    "</svg><script>alert(1)</script> ]]> &amp; \"'",
    "$x^2$ {}\\frac{a}{b}",
    "\u202e\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "e\u0301" * 8 + "\u0301" * 500,
    "\U0001f600\U0001f600 party",
    "N" * 10_000,
    "W" * 13,
    "\x00\x1b[31mred\n\ttab",
    "",
    " ",
    "\u6f22\u5b57" * 20,
]


@pytest.fixture(autouse=True)
def settings_of_matplotlib() -> Iterator[None]:
    with mpl.rc_context():
        yield


def texts(drawing: Dashboard) -> list[tuple[Text, Bbox]]:
    """Return every drawn text with its box in pixels."""
    found, draw_text = [], Text.draw

    def noted(text: Text, *arguments: Any, **options: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            found.append((text, text.get_window_extent()))
        draw_text(text, *arguments, **options)

    figure: Any = drawing.figure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noted)
        figure.draw_without_rendering()  # all but the pixels
    return found


def shown(drawing: Dashboard) -> list[str]:
    return [text.get_text() for text, _ in texts(drawing)]


def assert_tidy(drawing: Dashboard) -> list[str]:
    """Assert that every text lies within its card and that no two texts overlap; return the texts."""
    figure = drawing.figure
    homes: dict[Any, Bbox] = {panel.area: panel.area.bbox.padded(-0.05 * figure.dpi) for panel in drawing.panels}
    found = texts(drawing)
    for text, box in found:
        home = homes.get(text.figure, figure.bbox)
        inside = home.x0 <= box.x0 and box.x1 <= home.x1 and home.y0 <= box.y0 and box.y1 <= home.y1
        assert inside, f"{text.get_text()!r} at {box} is cut by {home}"
    left, bottom, right, top = np.array([box.extents for _, box in found]).T
    across = np.minimum.outer(right, right) - np.maximum.outer(left, left)
    up = np.minimum.outer(top, top) - np.maximum.outer(bottom, bottom)
    words = [text.get_text() for text, _ in found]
    over = [(words[one], words[other]) for one, other in np.argwhere(np.triu(np.minimum(across, up) > 1.5, k=1))]
    assert not over, f"texts lie over each other: {over}"
    return words


SCENES = ("light", "anomalies", "empty", "stale-dark", "sensors", "ticks", "parts")  # dark has the geometry of light


@cache
def all_scenes() -> dict[str, Scene]:
    """Return the scenes, made when a test first needs one rather than during collection."""
    return {scene.name: scene for scene in (*scenes(), *examples()[1:]) if scene.name != "dark"}


def test_every_scene_is_drawn() -> None:
    assert set(all_scenes()) == set(SCENES)


@pytest.mark.parametrize("name", ["light", "anomalies", "empty", "stale-dark", "sensors"])
def test_the_images_of_the_documents_are_drawn_to_the_pixel(name: str) -> None:
    kept = Image.open(PROJECT_DIR / "docs" / "images" / f"dashboard-{name}.png")
    if mpl.__version__ not in kept.info["Software"] or sys.platform != "linux":
        pytest.skip("the images are of another version of matplotlib, or another system")
    scene = all_scenes()[name]
    drawn = Image.open(io.BytesIO(draw(scene).image(scene.snapshot)))
    assert np.asarray(ImageChops.difference(kept.convert("RGB"), drawn.convert("RGB"))).max() <= 8  # rounding


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, size) for name in SCENES for size in SIZES if size in CRAMPED or name in ("anomalies", "sensors")],
)
def test_scene_is_tidy(name: str, size: str) -> None:
    scene = all_scenes()[name]
    seen = assert_tidy(draw(scene, **SIZES[size]))
    assert any(text.startswith(f"\u25cf {scene.snapshot.status}") for text in seen)
    if scene.snapshot.total:
        assert f"{scene.snapshot.total:,}" in seen
    else:
        assert any("python -m producers.ragini_producer" in text for text in seen)


@pytest.mark.parametrize("name", ["light", "sensors"])
def test_the_smallest_column_is_tidy(name: str) -> None:
    """docs/dashboard.md names this size; the column for phones is higher."""
    assert_tidy(draw(all_scenes()[name], size=(4.0, 17.0)))


@pytest.mark.parametrize("size", ["standard", "small", "column"])
@pytest.mark.parametrize("span_s", [1, 34, 100, 481, 3_600, 86_399, 100_000])
def test_time_axis_shows_how_long_it_is(span_s: int, size: str) -> None:
    """The time axis has at least two times: round ones, or its ends where there is no room for more."""
    times = iter(np.linspace(NOW - span_s, NOW, 40))
    seen = snapshot_of(40, timestamp=lambda rng: instant_text(int(next(times) * 1e6)))
    drawing = draw(Scene("", "light", seen), **SIZES[size])
    begin, form = min(seen.flow[0][0], seen.flow[-1][0] - 10), "%H:%M:%S" if span_s < 86_400 else "%Y-%m-%d %H:%M"
    words = set(assert_tidy(drawing))
    if size == "column" or span_s > 86_400:
        assert {local_time(time).strftime(form) for time in (begin, seen.flow_end)} <= words
        return
    ticks = drawing.panels[0].area.axes[-1].get_xticks()
    assert 2 <= len(ticks) <= 5 and begin <= min(ticks) and max(ticks) <= seen.flow_end
    assert {local_time(tick).strftime(form) for tick in ticks} <= words
    midnight = local_time(NOW).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    assert len(set(np.diff(ticks))) == 1 and not np.any((ticks - midnight) % np.diff(ticks)[0])


@pytest.fixture(params=["Asia/Kolkata", "Pacific/Chatham", "America/New_York"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """Set the time zone of this process."""
    if not hasattr(time, "tzset"):
        pytest.skip("Windows cannot set the time zone of a process")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_round_times_are_those_of_the_zone() -> None:
    for span_s in (12_000, 80_000):
        test_time_axis_shows_how_long_it_is(span_s, "standard")
    times = iter(np.linspace(NOW - 500_000, NOW, 40))
    drawing = draw(Scene("", "light", snapshot_of(40, timestamp=lambda rng: instant_text(int(next(times) * 1e6)))))
    bars = [text for *_, text in drawing.hints() if text.startswith("6 h from ")]
    assert bars and all(re.search(r"(00|06|12|18):00(:00)?: ", text) for text in bars)


def test_a_clock_that_was_set_back_reverses_no_axis() -> None:
    seen = snapshot_of(40)
    assert np.diff(draw(Scene("", "light", replace(seen, now=NOW - 1e6))).panels[0].area.axes[0].get_xlim())[0] > 0


def test_examples_are_charted_by_their_fields() -> None:
    """The commands need no option for it."""
    titles = {
        "sensors": ["Records by Device", "Temperature C Trends", "Humidity Pct Analysis"],
        "ticks": ["Records by Symbol", "Price Trends", "Volume Analysis"],
        "parts": ["Records by Line", "Measure Mm Trends", "Measure Mm Analysis"],
    }
    for name, expected in titles.items():
        seen = shown(draw(all_scenes()[name]))
        assert set(expected) <= set(seen)
        assert f"Streaming Dashboard \u00b7 {name}" in seen
    assert {"ABOVE 24", "BELOW 18"} <= set(shown(draw(all_scenes()["sensors"])))


def test_each_line_has_its_colour_marker_and_name() -> None:
    trend: Any = draw(all_scenes()["sensors"]).panels[2]
    legend = trend.axes.get_legend()
    names = [text.get_text().split()[1] for text in legend.texts]
    assert sorted(names) == ["bedroom", "cellar", "kitchen", "office", "roof"]
    means = [float(text.get_text().split()[0]) for text in legend.texts]
    assert means == sorted(means, reverse=True)  # in the order of the lines' ends
    looks = {(line.get_color(), line.get_marker()) for line in trend.raw}
    assert len(looks) == len({color for color, _ in looks}) == len({marker for _, marker in looks}) == 5
    for series, line in zip(all_scenes()["sensors"].snapshot.series, trend.raw, strict=True):
        assert list(line.get_ydata()) == list(series.values)


def test_bars_lines_and_labels_stand_where_the_data_is() -> None:
    snapshot = all_scenes()["anomalies"].snapshot
    panels: list[Any] = list(draw(all_scenes()["anomalies"]).panels)
    flow, groups, trend, histogram = panels[:4]
    assert list(flow.line.get_ydata()[:-1]) == [total for _, total in snapshot.flow]
    assert flow.line.get_ydata()[-1] == snapshot.total
    widths = [bar.get_width() for bar in groups.bars if bar.get_width()]
    assert widths[:6] == [count for _, count in snapshot.groups]
    assert sum(widths) == snapshot.total
    (series,) = snapshot.series
    assert list(trend.raw[0].get_ydata()) == list(series.values)
    assert len(trend.outliers.get_xdata()) == sum(series.anomalies) == 1
    assert sum(bar.get_height() for bar in histogram.bars if bar.get_visible()) == len(snapshot.measured)
    assert snapshot.measures is not None
    assert histogram.lines[0].get_xdata()[0] == snapshot.measures.mean
    seen = shown(draw(all_scenes()["anomalies"]))
    assert any("1 anomaly, the latest 0.0" in text for text in seen)
    assert {"Other (2)", "POSITIVE", "NEUTRAL", "NEGATIVE"} <= set(seen)


def snapshot_of(count: int, *, idle_s: float = 0.0, seed: int = 1, **fields: Any) -> Snapshot:
    """Return a snapshot after `count` messages, one a second; a callable field is called for each message."""
    rng, now = random.Random(seed), NOW - 600
    state = State(BUZZ, "file", clock=lambda: now)
    now = NOW
    messages = make_messages(count, producer_id="ann-1")
    for number, message in enumerate(messages):
        message.timestamp = instant_text(int((NOW - count + number) * 1e6))
        message.sentiment = rng.random()
        for name, value in fields.items():
            setattr(message, name, value(rng) if callable(value) else value)
    state.add(Chunk("f", "", "1", messages))
    now += idle_s
    return state.snapshot()


HARD = {
    "hard names": partial(snapshot_of, 400, author=lambda rng: rng.choice(HARD_NAMES)),
    "one message": partial(snapshot_of, 1, message_length=0),
    "huge lengths": partial(snapshot_of, 60, message_length=lambda rng: rng.choice([0, 10**6, 2**63 - 1])),
    "same length": partial(snapshot_of, 60, message_length=40),
    "sentiment 0 and 1": partial(snapshot_of, 60, sentiment=lambda rng: float(rng.randint(0, 1))),
    "no timestamps": partial(snapshot_of, 60, timestamp="missing"),
    "far past": partial(snapshot_of, 60, timestamp=lambda rng: f"19{rng.randint(10, 99)}-01-01T00:00:00Z"),
    "far future": partial(snapshot_of, 60, timestamp="9999-12-31T00:00:00Z"),
    "the zero time of other languages": partial(snapshot_of, 60, timestamp="0001-01-01T00:00:00Z"),
    "stale for weeks": partial(snapshot_of, 200, idle_s=3_000_000.0),
    "many authors": partial(snapshot_of, 20_000, author=lambda rng: f"author {rng.random()}"),
}


@cache
def hard(name: str) -> Snapshot:
    return HARD[name]()


@pytest.mark.parametrize("size", ["small", "column"])  # the smallest ones
@pytest.mark.parametrize("name", HARD)
def test_hostile_data_is_drawn_tidily(name: str, size: str) -> None:
    assert brief(hard(name).total) in assert_tidy(draw(Scene(name, "dark", hard(name)), **SIZES[size]))


@pytest.mark.parametrize("began_s, most_s", [(NOW - 7_200, 3_000_000), (NOW + 20, 3_510)])
def test_silence_takes_at_most_half_of_the_flow(began_s: float, most_s: float) -> None:
    """A recording from days ago does not shrink to a dot, and a stream that fell silent still shows its silence."""
    for idle_s in (30.0, 3_000.0, 3_000_000.0):
        times = iter(range(int(NOW) - 3_600, int(NOW), 90))
        seen = snapshot_of(40, idle_s=idle_s, timestamp=lambda rng, times=times: instant_text(next(times) * 10**6))
        flow: Any = draw(Scene("", "light", replace(seen, started=began_s))).panels[0]
        oldest, newest, end = (flow.line.get_xdata()[at] for at in (0, -2, -1))
        assert round(newest - oldest) == 3_510
        assert end - newest == pytest.approx(min(idle_s + 90, most_s), abs=100)


@pytest.mark.parametrize("size", ["small", "column"])
@pytest.mark.parametrize("zones", [(-5.0, 0.5), (0.5, 0.51), (-1e308, 1e308), (0.999, 7.0)])
def test_zones_never_change_the_scale_of_sentiment(zones: tuple[float, float], size: str) -> None:
    seen = hard("same length")
    drawing = draw(Scene("", "light", replace(seen, roles=replace(seen.roles, zones=zones))), **SIZES[size])
    assert_tidy(drawing)
    trend: Any = drawing.panels[2]
    assert trend.axes.get_ylim() == pytest.approx((-0.04, 1.04))


HOSTILE = Stream(
    "hostile",
    by="</svg> ]]>\u202e " + "x" * 300,
    value="v" * 200,
    histogram="$h_2$ {0}",
    fields=(
        Field("</svg> ]]>\u202e " + "x" * 300, "text"),
        Field("v" * 200, "number"),
        Field("$h_2$ {0}", "integer"),
        Field("timestamp", "timestamp"),
    ),
)


def hostile(values: list[float]) -> Snapshot:
    state = State(HOSTILE, "file", clock=lambda: NOW)
    by, value, histogram, _ = (field.name for field in HOSTILE.fields)
    decode = HOSTILE.codec.decode
    lines = [
        msgspec.json.encode({by: HARD_NAMES[n % len(HARD_NAMES)], value: each, histogram: n * 10**14})
        for n, each in enumerate(values)
    ]
    state.add(Chunk("f", "", "1", list(map(decode, lines))))
    return state.snapshot()


@pytest.mark.parametrize("size", ["small", "column"])
@pytest.mark.parametrize(
    "values",
    [
        [1e99, -1e99, 0.0] * 30,
        [1e-300, 2e-300] * 30,
        [5.0] * 90,
        [1e15 + n for n in range(90)],
        [0.0],
        [1.0, 1.0 + 1e-12] * 40,
        [1e300] * 30,
        [1234567.0 + n for n in range(90)],
        [-1234567.0 - n for n in range(90)],
        [123456.0 + n / 100 for n in range(90)],
        [123456789012.0] * 90,
        [5e-324, 0.0] * 40,
    ],
    ids=[
        "huge",
        "tiny",
        "constant",
        "far from zero",
        "one",
        "nearly the same",
        "beyond all",
        "counter",
        "counter below zero",
        "long decimals",
        "constant and large",
        "denormal",
    ],
)
def test_hostile_fields_and_numbers_are_drawn_tidily(values: list[float], size: str) -> None:
    drawing = draw(Scene("hostile", "light", hostile(values)), **SIZES[size])
    assert_tidy(drawing)
    for axis in (each for panel in drawing.panels for axes in panel.area.axes for each in (axes.xaxis, axes.yaxis)):
        labels = [label.get_text() for label in axis.get_ticklabels() if label.get_text()]
        assert len(labels) == len(set(labels))  # without duplicates


def titles(tree: ElementTree.Element) -> list[str]:
    """Return the texts that an SVG shows under the mouse."""
    return [label for each in tree.iter() if (label := each.get("aria-label"))]


def test_rolling_mean_of_values_that_rise_is_seen() -> None:
    """The scale includes the rolling mean of rising values, which lies below all of them."""
    trend: Any = draw(Scene("", "light", hostile([1234567.0 + n for n in range(999)]))).panels[2]
    bottom, top = trend.axes.get_ylim()
    means = trend.rolling[0].get_ydata()
    assert bottom < min(means) < min(trend.raw[0].get_ydata()) < top


def test_an_anomaly_flattens_no_trend() -> None:
    trend: Any = draw(Scene("", "light", hostile([*[20.0, 21.0, 22.0] * 110, 85.0, *[20.0, 21.0] * 5]))).panels[2]
    bottom, top = trend.axes.get_ylim()
    assert (bottom > 19, top < 23, list(trend.outliers.get_ydata())) == (True, True, [top])
    assert "1 anomaly, the latest 85" in trend.subtitle.get_text()


@pytest.mark.parametrize("size", [column(), (8.0, 6.0), DEFAULT_SIZE])
def test_times_of_the_health_strip_are_never_cut(size: tuple[float, float]) -> None:
    snapshot, header = all_scenes()["light"].snapshot, Dashboard("light", size).header
    assert snapshot.last is not None
    for idle_s in (0, 59, 83, 599, 8_040, 35_999, 90_061, 34_560_000, 299_592_000):
        header.update(replace(snapshot, now=snapshot.last + idle_s, started=snapshot.last - 1), paused=False)
        texts = [artist.get_text() for tile in header.tiles for artist in tile]
        assert not [text for text in texts if text.endswith("\u2026")]


@pytest.mark.parametrize("narrow", [False, True])
def test_svg_is_well_formed_and_names_are_text(narrow: bool) -> None:
    for snapshot in (hard("hard names"), hostile([1.0, 2.0, 30.0] * 20)):
        svg = Dashboard("light", column() if narrow else DEFAULT_SIZE).svg(snapshot)
        tree = ElementTree.fromstring(svg)
        assert re.search(r"\d \u00a0\d+%", svg)  # so that a browser cannot break the line between count and share
        assert not re.search("<script|\x1b|\u202e", svg)
        assert any("<script>" in title for title in titles(tree))
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", svg)]
        width = float(tree.attrib["viewBox"].split()[2])
        assert min(sizes) * 390 / width >= 11 or not narrow


def test_svg_has_a_title_for_each_point_bar_and_anomaly() -> None:
    snapshot = all_scenes()["anomalies"].snapshot
    found = titles(ElementTree.fromstring(Dashboard("light").svg(snapshot)))
    (series,) = snapshot.series
    for at, value, key, odd in zip(series.times, series.values, series.keys, series.anomalies, strict=True):
        hint = f"{value:.2f} \u00b7 {clock(at, snapshot.now)} \u00b7 {key}"
        assert ("anomaly: " * odd + hint) in found
    for name, count in snapshot.groups:
        assert any(title.startswith(f"{name}: {count:,} messages") for title in found)


def test_the_mouse_shows_the_text_of_a_point() -> None:
    dashboard = draw(all_scenes()["anomalies"])
    hints = dashboard.hints()
    x0, y0, x1, y1, text = next(hint for hint in hints if hint[4].startswith("anomaly"))
    assert dashboard.point_at((x0 + x1) / 2, (y0 + y1) / 2)
    assert (dashboard.tip.get_visible(), dashboard.tip.get_text()) == (True, text)
    assert dashboard.point_at(1, 1)
    assert not dashboard.tip.get_visible()
    assert not dashboard.point_at(2, (y0 + y1) / 2)


def test_a_value_is_the_same_everywhere() -> None:
    """Rate, total and average are equal wherever they are shown, and nothing is older than the clock."""
    now = NOW
    state = State(BUZZ, "file", clock=lambda: now)
    state.go_live()
    drawing = Dashboard("light")
    rng = random.Random(3)
    for frame in range(1, 12):
        now += rng.uniform(0.5, 9.0)
        messages = make_messages(rng.randint(1, 9), producer_id="ann-1", first=frame * 10)
        for message in messages:
            message.timestamp = instant_text(int(now * 1e6))
        state.add(Chunk("f", "", "1", messages))
        now += rng.uniform(0.5, 9.0)
        snapshot = state.snapshot()
        drawing.update(snapshot)
        seen = shown(drawing)
        rates = {rate for text in seen for rate in re.findall(r"[\d.]+ msg/s", text)}
        assert rates == {snapshot.rate_text}
        assert f"{local_time(now):%Y-%m-%d  %H:%M:%S}" in seen
        assert seen.count(f"{snapshot.total:,}") >= 1
        assert any(f"{snapshot.total:,} messages" in text for text in seen)
        trend: Any = drawing.panels[2]
        assert f"{np.mean(snapshot.series[0].values):.2f} average" in [
            text.get_text() for text in trend.axes.get_legend().texts
        ]
        flow: Any = drawing.panels[0]
        assert flow.axes.get_xlim()[1] == pytest.approx(now, abs=1e-3)


def test_a_matplotlibrc_does_not_change_the_image(tmp_path: Any) -> None:
    clean = Dashboard("light").image(all_scenes()["anomalies"].snapshot)
    hostile_rc: Any = {
        "text.usetex": True, "axes.grid": False, "font.size": 30, "lines.linewidth": 9, "savefig.dpi": 20,
        "axes.titlecolor": "red", "figure.autolayout": True, "savefig.bbox": "tight", "timezone": "Asia/Tokyo",
        "axes.unicode_minus": False, "svg.fonttype": "path", "text.parse_math": True, "image.origin": "lower",
    }  # fmt: skip
    mpl.rcParams.update(hostile_rc)
    assert Dashboard("light").image(all_scenes()["anomalies"].snapshot) == clean


def test_trouble_is_written_with_time_and_reason() -> None:
    source = Source("sqlite", "data/buzz.sqlite", "database is locked", NOW)
    snapshot = replace(all_scenes()["light"].snapshot, source=source, now=NOW)
    for size in SIZES.values():
        assert any("down since" in text for text in shown(draw(Scene("", "light", snapshot), **size)))


@pytest.mark.parametrize("size", SIZES)
def test_a_panel_without_data_names_the_reason(size: str) -> None:
    """The reasons: no record passes --where, or records do not have the panel's number."""
    stream = sensor_producer.SENSORS
    records = [stream.codec.decode(b'{"device": "roof"}')] * 1234
    whole, part = (State(stream, "file", clock=lambda: NOW, where=where)
                   for where in (None, Expression(stream, "temperature_c > 99")))  # fmt: skip
    seen = []
    for state in (whole, part):
        state.add(Chunk("f", "", "1", records))
        seen.append(" / ".join(assert_tidy(draw(Scene("", "light", state.snapshot()), **SIZES[size]))))
        assert "of 1,234 received" in seen[-1]
        assert "No temperature c yet / Humidity Pct Analysis / No humidity pct yet" in seen[-1]
    assert "LIVE" in seen[0]
    assert "WAITING" in seen[1]
    assert "Waiting for the first record\n\nno record of 1,234 matches --where yet" in seen[1]
    assert size == "column" or "sensors \u00b7 temp" in seen[1]  # the condition


@pytest.mark.parametrize("size", [(4.0, 3.0), (30.0, 3.0), (4.0, 30.0)])
def test_any_size_is_drawn(size: tuple[float, float]) -> None:
    for name in ("anomalies", "empty", "sensors"):
        assert draw(all_scenes()[name], size).image(all_scenes()[name].snapshot)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_any_number_of_panels_is_drawn_tidily(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure, "PANELS", [PANELS[number % len(PANELS)] for number in range(count)])
    for size in (DEFAULT_SIZE, column(), (19.2, 10.8)):
        drawing = Dashboard("light", size)
        drawing.update(all_scenes()["anomalies"].snapshot)
        assert len(drawing.panels) == count
        assert_tidy(drawing)


def test_formatting() -> None:
    assert snapshot_module.number(-0.04, 5) == "0.0"
    assert [brief(count) for count in (999, 1_234, 3_400_000)] == ["999", "1,234", "3.4M"]
    assert (cli.counted(1, "frame"), cli.counted(2_000, "frame")) == ("1 frame", "2,000 frames")
    assert plain("a\x00\u202eb") == "a b"


def test_ticks_have_separators_of_thousands() -> None:
    axis = ThousandsFormatter()
    axis.create_dummy_axis()
    axis.set_locs([-2500, 0, 2500])
    assert [axis(value) for value in (-2500, 0, 2500)] == ["\u22122,500", "0", "2,500"]
    axis.set_locs([1000, 1000.5])
    assert axis(1000.5) == "1,000.5"
    histogram = draw(Scene("", "light", snapshot_of(60, message_length=lambda rng: rng.randint(0, 5000)))).panels[3]
    assert any("," in label.get_text() for label in histogram.area.axes[0].get_xticklabels())
