"""Layout by geometry: texts inside their cards, none over another, ticks where they say, whatever the data is."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from consumers.dashboard import picture, words
from consumers.dashboard.state import Snapshot, State
from consumers.dashboard.theme import THEMES, layout
from scripts.make_pictures import Scene, draw, scenes
from tests.helpers import make_messages
from utils.records.codec import instant_text
from utils.sources.base import Chunk

pytestmark = pytest.mark.full

SIZES = [(12.8, 7.2), (8.0, 6.0), (7.0, 5.0), (19.2, 10.8), (16.0, 6.0)]
NOW = 1_800_000_000.0
HARD_NAMES = [
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


def texts(dashboard: picture.Dashboard) -> Iterator[tuple[Text, Bbox]]:
    canvas: Any = dashboard.figure.canvas
    renderer = canvas.get_renderer()
    for text in dashboard.figure.findobj(Text):
        assert isinstance(text, Text)
        inside = text.axes is None or text.axes.get_visible()
        if text.get_visible() and inside and text.get_text().strip():
            yield text, text.get_window_extent(renderer)


def assert_tidy(dashboard: picture.Dashboard) -> None:
    """Every text lies within header, strip or one card, and no two texts touch."""
    place, dpi = layout(*dashboard.figure.get_size_inches()), dashboard.figure.dpi
    homes = [
        Bbox.from_bounds(rect.x * dpi, rect.y * dpi, rect.w * dpi, rect.h * dpi).padded(1)
        for rect in (place.header, place.strip, *place.cards)
    ]
    found = list(texts(dashboard))
    for text, box in found:
        assert any(
            home.x0 <= box.x0 and box.x1 <= home.x1 and home.y0 <= box.y0 and box.y1 <= home.y1 for home in homes
        ), f"{text.get_text()!r} at {box} is cut"
    for (one, one_box), (other, other_box) in combinations(found, 2):
        crossing = Bbox.intersection(one_box, other_box)
        overlap = crossing is not None and min(crossing.width, crossing.height) > 1.0
        assert not overlap, f"{one.get_text()!r} is over {other.get_text()!r}"


def shown(dashboard: picture.Dashboard) -> list[str]:
    return [text.get_text() for text, _ in texts(dashboard)]


SCENES = scenes()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_scene_is_tidy(scene: Scene, size: tuple[float, float]) -> None:
    dashboard = draw(scene, size)
    assert_tidy(dashboard)
    logged = shown(dashboard)
    assert words.status(scene.snapshot) in logged
    if scene.snapshot.total:
        assert f"{scene.snapshot.total:,}" in logged
    else:
        assert any("python -m producers.ragini_producer" in text for text in logged)


@pytest.mark.parametrize("size", [*SIZES, (4.0, 3.0), (5.0, 4.0), (6.4, 4.8)], ids=str)
@pytest.mark.parametrize("busy", [False, True])
def test_health_strip_cuts_no_word(size: tuple[float, float], busy: bool) -> None:
    snapshot = SCENES[0].snapshot
    if busy:
        snapshot = replace(snapshot, lags=(0.054, 0.0776, 0.1), rate=100_008.0, invalid=12_345, lost=1_234)
        snapshot = replace(snapshot, source="duckdb", last=snapshot.now - 184, started=snapshot.now - 8_040)
    dashboard = picture.headless(size, "light", 2.0)
    dashboard.frame_s = 0.199
    dashboard.update(snapshot)
    boxes = dict(texts(dashboard))
    tiles = dashboard.strip._tiles.values()
    assert len({tile.value.get_fontsize() for tile in tiles}) == 1
    for tile in tiles:
        for text in (tile.value, tile.detail):
            assert not {"\n", "\u2026"} & set(text.get_text())
            assert boxes[text].width <= tile.room * 100 + 1
    logged = shown(dashboard)
    assert ("BAD / LOST / DUP" in logged) == (size[0] <= 8)
    assert ("every 2 s, frame 199 ms" in logged) == (size[0] > 8)
    assert ("UPTIME" in logged) == (size[0] >= 7)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("after_s", [5.0, 20.0, 600.0])
def test_throughput_explains_its_line_only_where_it_is(size: tuple[float, float], after_s: float) -> None:
    now = NOW
    state = State("file", "data/project_live.json", clock=lambda: now)
    state.healthy(caught_up=True)
    state.add(Chunk("f", "", "1", make_messages(50, producer_id="ann-1")))
    now += after_s
    dashboard = draw(Scene("", "light", state.snapshot()), size)
    line = dashboard.strip._spark.get_visible()
    assert line if after_s == 20.0 and size[0] > 8 else not line or after_s == 20.0
    assert line or not any("line" in text for text in shown(dashboard))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_health_strip_cuts_no_figure_whatever_it_is(size: tuple[float, float]) -> None:
    now = NOW
    state = State("file", "data/project_live.json", clock=lambda: now)
    state.healthy(caught_up=True)
    messages = make_messages(1, producer_id="ann-1") + make_messages(1, producer_id="ann-1", first=2**63 - 1)
    for message in messages:
        message.timestamp = "9999-12-31T00:00:00Z"
    state.add(Chunk("f", "", "1", messages))
    now += 10**8
    dashboard = draw(Scene("", "light", state.snapshot()), size)
    assert_tidy(dashboard)
    for tile in dashboard.strip._tiles.values():
        assert "\u2026" not in tile.value.get_text() + tile.detail.get_text()


def test_nothing_yet_is_calm() -> None:
    (scene,) = (scene for scene in SCENES if scene.name == "empty")
    dashboard = draw(scene, SIZES[0])
    assert "event time to screen" in shown(dashboard)
    assert THEMES["light"].stale not in {text.get_color() for text, _ in texts(dashboard)}


def rate_bars(snapshot: Snapshot) -> list[Any]:
    flow: Any = draw(Scene("", "light", snapshot), SIZES[0]).panels[0]
    begin, end = flow._rates.axes.get_xlim()
    return [
        path for path in flow._bars.get_paths() if begin <= path.vertices[:, 0].min() < path.vertices[:, 0].max() <= end
    ]


@pytest.mark.parametrize("idle_s", [0.0, 0.01, 8.0, 15.0, 108_000.0])
def test_every_message_is_under_a_rate_bar(idle_s: float) -> None:
    assert len(rate_bars(snapshot_of(3, idle_s=1 + idle_s))) == 3


def test_labels_keep_the_padding_of_their_card() -> None:
    state = State("file", "data/project_live.json", clock=lambda: NOW)
    state.healthy(caught_up=True)
    state.add(Chunk("f", "", "1", make_messages(100_008, producer_id="ann-1")))
    dashboard = draw(Scene("", "light", state.snapshot()), SIZES[0])
    (label,) = (box for text, box in texts(dashboard) if "max 100,008" in text.get_text())
    assert label.x1 <= (layout(*SIZES[0]).cards[0].right - 0.19) * 100


def test_band_of_lengths_is_named_where_there_is_room() -> None:
    for size in SIZES:
        assert any("1\u03c3" in text for text in shown(draw(SCENES[0], size)))


def test_anomalies_scene_says_what_it_marks() -> None:
    (scene,) = (scene for scene in SCENES if scene.name == "anomalies")
    logged = shown(draw(scene, SIZES[0]))
    assert any("2 anomalies marked" in text for text in logged)
    assert {"Other (4)", "POSITIVE", "NEUTRAL", "NEGATIVE"} <= set(logged)


def test_bars_ticks_and_steps_stand_where_the_data_is() -> None:
    (scene,) = (scene for scene in SCENES if scene.name == "light")
    dashboard = draw(scene, SIZES[0])
    panels: list[Any] = list(dashboard.panels)
    flow, authors, sentiment, length = panels
    totals = [total for _, total in scene.snapshot.flow]
    assert flow.steps.get_ydata()[-1] == scene.snapshot.total
    assert list(flow.steps.get_ydata()[:-1]) == totals
    widths = [path.vertices[:, 0].max() for path in authors.bars.get_paths()]
    assert widths[: len(scene.snapshot.authors)] == [count for _, count in scene.snapshot.authors]
    assert list(sentiment.raw.get_ydata()) == list(scene.snapshot.sentiments[-30:])
    heights = [path.vertices[:, 1].max() for path in length.bars.get_paths()]
    assert sum(heights) == len(scene.snapshot.lengths)
    for labels in (flow.plot._y_ticks, length.plot._y_ticks, length.plot._x_ticks):
        for text in labels.pool:
            if text.get_visible():
                at = text.get_position()
                assert float(text.get_text().replace(",", "")) in (pytest.approx(at[0]), pytest.approx(at[1]))


def snapshot_of(count: int, *, idle_s: float = 0.0, seed: int = 1, **fields: Any) -> Snapshot:
    """A snapshot after `count` messages, one a second; a callable field is asked for each message."""
    rng = random.Random(seed)
    now = NOW - 600
    state = State("file", "data/project_live.json", clock=lambda: now)
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
    "hard names": snapshot_of(400, author=lambda rng: rng.choice(HARD_NAMES)),
    "one message": snapshot_of(1, message_length=0),
    "one huge length": snapshot_of(1, message_length=2**63 - 1),
    "huge lengths": snapshot_of(60, message_length=lambda rng: rng.choice([0, 10**6, 2**63 - 1])),
    "same length": snapshot_of(60, message_length=40),
    "sentiment 0 and 1": snapshot_of(60, sentiment=lambda rng: float(rng.randint(0, 1))),
    "no timestamps": snapshot_of(60, timestamp="missing"),
    "far past": snapshot_of(60, timestamp=lambda rng: f"19{rng.randint(10, 99)}-01-01T00:00:00Z"),
    "far future": snapshot_of(60, timestamp="9999-12-31T00:00:00Z"),
    "the zero time of other languages": snapshot_of(60, timestamp="0001-01-01T00:00:00Z"),
    "stale for weeks": snapshot_of(200, idle_s=3_000_000.0),
    "many authors": snapshot_of(100_000, author=lambda rng: f"author {rng.random()}"),
}


@pytest.mark.parametrize("size", SIZES[:2], ids=str)
@pytest.mark.parametrize("name", HARD)
def test_hostile_data_is_drawn_tidily(name: str, size: tuple[float, float]) -> None:
    dashboard = draw(Scene(name, "dark", HARD[name]), size)
    assert_tidy(dashboard)
    assert f"{HARD[name].total:,}" in shown(dashboard)


def test_words() -> None:
    assert words.lags(0.054, 0.1) == ("54 ms", "100 ms")
    assert words.lags(0.3, 1.12) == ("0.3 s", "1.1 s")
    assert words.lags(-7_260.0, -0.5) == ("-2 h 1 m", "-0.5 s")
    assert words.clock(NOW - 108_000, NOW) == datetime.fromtimestamp(NOW - 108_000).strftime("%Y-%m-%d %H:%M")
    briefly = [words.brief(number) for number in (999, 1_234, 12_345, 3_400_000, 2**64)]
    assert briefly == ["999", "1.2k", "12k", "3.4M", "18E"]
    assert [words.share(count, 200) for count in (0, 1, 2, 198, 199, 200)] == ["0%", "<1%", "1%", "99%", ">99%", "100%"]
    assert (words.counted(1, "frame"), words.counted(2_000, "frame")) == ("1 frame", "2,000 frames")


def test_distinct_authors_are_counted() -> None:
    assert any(
        text.startswith("100,000 authors") for text in shown(draw(Scene("", "light", HARD["many authors"]), SIZES[0]))
    )


def test_trouble_is_told_with_time_and_reason() -> None:
    state = State("sqlite", "data/buzz.sqlite", clock=lambda: NOW)
    state.troubled("data/buzz.sqlite: database is locked")
    logged = shown(draw(Scene("", "light", state.snapshot()), SIZES[0]))
    assert any(f"down since {words.clock(NOW, NOW)}" in text and "locked" in text for text in logged)


@pytest.mark.parametrize("size", [(4.0, 3.0), (1.0, 0.5), (30.0, 2.0)])
def test_any_size_is_drawn(size: tuple[float, float]) -> None:
    for scene in SCENES:
        assert draw(scene, size).image().size == (round(size[0] * 100), round(size[1] * 100))


@pytest.mark.parametrize("size", [(4.0, 3.0), (5.0, 4.0), (6.4, 4.8), (4.0, 9.0)], ids=str)
def test_panel_without_room_says_so(size: tuple[float, float]) -> None:
    dashboard = draw(SCENES[0], size)
    assert_tidy(dashboard)
    assert ("Needs a larger window" in shown(dashboard)) == (size != (6.4, 4.8))


def test_only_clocks_are_drawn_when_nothing_else_changed() -> None:
    now = NOW
    state = State("file", "data/project_live.json", clock=lambda: now)
    state.healthy(caught_up=True)
    state.add(Chunk("f", "", "1", make_messages(50, producer_id="ann-1")))
    dashboard = picture.headless((12.8, 7.2), "light", 2.0)
    dashboard.update(state.snapshot())
    before = np.asarray(dashboard.image())
    for _ in range(4):
        now += 2.0
        dashboard.update(state.snapshot())
    after = np.asarray(dashboard.image())
    strip_bottom = int(layout(12.8, 7.2).strip.y * 100)
    changed = np.nonzero((before != after).any(axis=(1, 2)))[0]
    assert dashboard.full_frames == 1
    assert len(changed)
    assert changed.max() < 720 - strip_bottom
    whole = picture.headless((12.8, 7.2), "light", 2.0)
    whole.frame_s = dashboard.frame_s
    whole.update(state.snapshot())
    differing = (np.asarray(whole.image())[: 720 - strip_bottom] != after[: 720 - strip_bottom]).any(axis=2).mean()
    assert differing < 0.001  # the partial drawing looks like the whole one
    state.add(Chunk("f", "1", "2", make_messages(1, producer_id="ann-1", first=51)))
    dashboard.update(state.snapshot())
    assert dashboard.full_frames == 2
