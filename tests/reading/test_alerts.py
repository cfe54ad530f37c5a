"""When alerts are given: compared with pandas, at the edges, over restarts, and in silence."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.app.errors import PositionMoved, ToolkitError
from utils.reading.alerts import Alerts, AlertState, Rule
from utils.reading.anomaly import TRAILING, anomalies
from utils.reading.database import SqliteDatabase
from utils.reading.store import ProcessedStore
from utils.records.codec import Field
from utils.records.instants import instant_text
from utils.records.stream import Stream
from utils.sources.base import Chunk

SENSORS = Stream(
    "sensors",
    by="device",
    value="temperature_c",
    fields=(
        Field("device", "text"),
        Field("temperature_c", "number"),
        Field("tags", "json"),
        Field("timestamp", "timestamp"),
    ),
)
BEGIN_S = 1_795_460_640
HOT = "temperature_c > 24"
Made = tuple[float | None, str, float | None]


def records(made: Sequence[Made], first: int = 1) -> list[Any]:
    """Make records with ids of (seconds after the beginning, device, temperature)."""
    lines = [
        {
            "device": device,
            "temperature_c": value,
            "timestamp": None if at_s is None else instant_text(round((BEGIN_S + at_s) * 1e6)),
            "producer_id": "ann-0000000a-00000001",
            "sequence": sequence,
        }
        for sequence, (at_s, device, value) in enumerate(made, first)
    ]
    return SENSORS.codec.decode_lines(b"".join(msgspec.json.encode(each) + b"\n" for each in lines))


def values(*found: float | None) -> list[Made]:
    """Make records of one device, one a second."""
    return [(float(at_s), "a", value) for at_s, value in enumerate(found)]


def given_by(rule: Rule, made: Sequence[Made], path: Path, size: int = 1_000) -> list[int]:
    """Return the sequences of the records that raised an alert; each chunk of `size` is read by a new process."""
    read = records(made)
    for start in range(0, len(read), size):
        with closing(ProcessedStore(SqliteDatabase(path), SENSORS)) as store:
            part = Alerts(store, rule.on(SENSORS)).add
            store.add(Chunk("live", str(start or ""), str(start + size), read[start : start + size]), part)
    return stored(path)


def stored(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT record, id FROM alerts ORDER BY rowid").fetchall()
    assert len({id for _, id in found}) == len(found)
    return [msgspec.json.decode(record)["sequence"] for record, _ in found]


def by_pandas(made: Sequence[Made], times: int, cooldown_s: float) -> list[int]:
    """Compute the same with pandas alone."""
    frame = pd.DataFrame(made, columns=["at_s", "device", "value"]).astype({"value": float})
    frame["hit"] = frame["value"] > 24
    found = []
    for _, group in frame.groupby("device"):
        crossing = (~group["hit"]).cumsum()  # consecutive hits have the same number
        row = group["hit"].groupby(crossing).cumsum()
        latest_s, done = -np.inf, -1
        for index in group.index[group["hit"] & (row >= times)]:
            if crossing[index] != done and abs(group["at_s"][index] - latest_s) >= cooldown_s:
                found.append(index + 1)
                latest_s, done = group["at_s"][index], crossing[index]
    return sorted(found)


made_records = st.lists(
    st.tuples(st.integers(0, 60).map(float), st.sampled_from("ab"), st.sampled_from([20.0, 24.0, 24.1, 30.0, None])),
    min_size=1,
    max_size=80,
)


@pytest.mark.proof(
    "an alert is stored once and delivered at least once",
    "random streams in any order and chunks, with a restart after each, against pandas",
    quick=40,
)
@settings(max_examples=40, deadline=None)
@given(made_records, st.integers(4, 80), st.integers(1, 4), st.sampled_from([None, 0.001, 10.0]))
def test_equal_pandas_in_any_order_and_chunks(made: Any, size: int, times: int, cooldown_s: float | None) -> None:
    with TemporaryDirectory() as folder:
        rule = Rule(when=HOT, times=times, cooldown_s=cooldown_s)
        found = given_by(rule, made, Path(folder) / "file.sqlite", size)
    assert sorted(found) == by_pandas(made, times, cooldown_s or 0)


@pytest.mark.parametrize(
    ("times", "cooldown_s", "made", "expected"),
    [
        pytest.param(1, None, values(24, 24.1, 25, 30), [2], id="one alert per crossing"),
        pytest.param(1, None, values(25, 24, 25), [1, 3], id="a record that does not match ends a crossing"),
        pytest.param(1, None, values(25, None, 25), [1, 3], id="so does one without a value"),
        pytest.param(3, None, values(25, 25, 24, 25, 25, 25, 25), [6], id="so many in a row"),
        pytest.param(3, None, values(25, 25), [], id="one too few"),
        pytest.param(2, None, [(0, "a", 25), (1, "b", 25), (2, "a", 25), (3, "b", 1)], [3], id="per value of by"),
        pytest.param(1, 10, [(0, "a", 25), (5, "a", 1), (9.999, "a", 25), (9.9995, "a", 1)], [1], id="in the cooldown"),
        pytest.param(1, 10, [(0, "a", 25), (5, "a", 1), (10, "a", 25)], [1, 3], id="the cooldown has just ended"),
        pytest.param(1, 10, [(0, "a", 25), (5, "a", 1), (6, "a", 25), (10, "a", 25)], [1, 4], id="lasts longer"),
        pytest.param(1, 10, [(50, "a", 25), (51, "a", 1), (41, "a", 25), (1, "a", 1)], [1], id="late ones are in it"),
        pytest.param(1, 10, [(9e9, "a", 25), (1, "a", 1), (2, "a", 25)], [1, 3], id="a wrong clock mutes nothing"),
        pytest.param(1, 10, [(0, "a", 25), (1, "b", 25)], [1, 2], id="each value of by has its own"),
        pytest.param(1, 10, [(0, "a", 25), (1, "a", 1), (None, "a", 25)], [1, 3], id="without a time it has none"),
        pytest.param(
            1, 10, [(0, "a", 25), (1, "a", 1), (None, "a", 25), (2, "a", 1), (3, "a", 25)], [1, 3], id="it stays"
        ),
        pytest.param(1, None, [(0, "", 25), (1, "x\0y", 25)], [1, 2], id="names of any kind"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 1_000])
def test_edges(
    times: int, cooldown_s: float | None, made: list[Made], expected: list[int], *, size: int, tmp_path: Path
) -> None:
    rule = Rule(when=HOT, times=times, cooldown_s=cooldown_s)
    assert given_by(rule, made, tmp_path / "file.sqlite", size) == expected


def test_the_whole_stream_instead_of_each_device(tmp_path: Path) -> None:
    made: list[Made] = [(0, "a", 25), (1, "b", 25), (2, "a", 20), (3, "b", 25)]
    assert given_by(Rule(when=HOT, by=""), made, tmp_path / "file.sqlite") == [1, 4]


def test_a_record_that_comes_twice_counts_once(tmp_path: Path) -> None:
    path, read = tmp_path / "file.sqlite", records(values(25, 25, 1))
    with closing(ProcessedStore(SqliteDatabase(path), SENSORS)) as store:
        alerts = Alerts(store, Rule(when=HOT, times=3).on(SENSORS))
        store.add(Chunk("live", "", "1", [*read[:2], *read[:2], read[2]]), alerts.add)
    assert stored(path) == []


def test_another_copy_that_was_faster_has_given_the_alert(tmp_path: Path) -> None:
    path, read = tmp_path / "file.sqlite", records(values(25, 1))
    opened = [ProcessedStore(SqliteDatabase(path), SENSORS) for _ in range(2)]
    copies = [Alerts(store, Rule(when=HOT).on(SENSORS)) for store in opened]
    opened[0].add(Chunk("live", "", "1", read), copies[0].add)
    with pytest.raises(PositionMoved):
        opened[1].add(Chunk("live", "", "1", read), copies[1].add)
    for store in opened:
        store.close()
    assert stored(path) == [1]


class TestAnomalies:
    def test_they_are_those_of_the_dashboard_over_restarts(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(7)
        data = rng.normal(20, 1, 400)
        data[[15, 60, 200, 201, 350]] += [9, 9, -8, -8, 30]
        expected = [place for place, odd in enumerate(anomalies(data.tolist(), len(data)), 1) if odd]
        assert {61, 201, 351} <= set(expected)
        made = values(*map(float, data))
        begun = [each for each in expected if each - 1 not in expected]  # one alert per crossing
        for size in (1_000, 37):
            assert given_by(Rule(anomaly="temperature_c"), made, tmp_path / f"{size}.sqlite", size) == begun

    def test_an_absent_value_is_none(self) -> None:
        state = AlertState()
        assert not any(state.stands_out(value, None) for value in [20.0, 20.5] * TRAILING)
        assert not state.stands_out(None, None)
        assert state.stands_out(40.0, None)
        assert len(state.trail) <= TRAILING


class TestSilence:
    @pytest.fixture
    def now(self) -> list[float]:
        return [1_000.0]

    def read(self, path: Path, rule: Rule, now: list[float], steps: list[list[Made] | float]) -> list[tuple[str, int]]:
        """Read records or let seconds pass; return name and time (s) of each alert in the store."""
        with closing(ProcessedStore(SqliteDatabase(path), SENSORS)) as store:
            alerts = Alerts(store, rule.on(SENSORS), lambda: now[0])
            for step in steps:
                alerts.check_silence()
                if isinstance(step, float):
                    now[0] += step
                else:
                    position = store.resume("live")
                    store.add(Chunk("live", position, str(now[0]), records(step, round(now[0]))), alerts.add)
            for _ in range(2):
                alerts.check_silence()
            found = store.database.query("SELECT name, event_us FROM alerts ORDER BY stored_us, name")
            return [(name, at_us // 1_000_000) for name, at_us in found]

    def test_one_alert_per_silence(self, now: list[float], tmp_path: Path) -> None:
        path, rule = tmp_path / "file.sqlite", Rule(silent_s=10)
        assert self.read(path, rule, now, [values(1), 9.999]) == []
        steps: list[list[Made] | float] = [9.999, values(1), 10.0, 50.0, values(1), 5.0]
        assert self.read(path, rule, now, steps) == [("", 1019)]
        assert self.read(path, rule, now, [9.0]) == [("", 1019)]  # it has not waited that long itself
        assert self.read(path, rule, now, [10.0]) == [("", 1019), ("", 1079)]
        assert self.read(path, rule, now, [100.0]) == [("", 1019), ("", 1079)]

    def test_a_stream_that_never_began(self, now: list[float], tmp_path: Path) -> None:
        assert self.read(tmp_path / "file.sqlite", Rule(silent_s=10), now, [10.0]) == [("", 1000)]

    def test_a_silence_has_another_id_for_each_rule(self, now: list[float], tmp_path: Path) -> None:
        """Two rules on one stream have different alert ids, by which a webhook removes duplicates."""
        found = set()
        for silent_s in (10, 20):
            now[0] = 1_000.0
            path = tmp_path / f"{silent_s}.sqlite"
            assert self.read(path, Rule(silent_s=silent_s), now, [20.0]) == [("", 1000)]
            with closing(sqlite3.connect(path)) as store:
                found |= set(store.execute("SELECT id FROM alerts"))
        assert len(found) == 2

    @pytest.mark.parametrize("by_s", [3_600.0, -3_600.0])
    def test_setting_the_clock_neither_makes_nor_hides_a_silence(
        self, by_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wrong_s = passed_s = 0.0
        monkeypatch.setattr("utils.reading.alerts.time.time", lambda: 9e8 + passed_s + wrong_s)
        monkeypatch.setattr("utils.reading.alerts.time.monotonic", lambda: passed_s)
        with closing(ProcessedStore(SqliteDatabase(tmp_path / "file.sqlite"), SENSORS)) as store:
            alerts = Alerts(store, Rule(silent_s=10).on(SENSORS))
            store.add(Chunk("live", "", "1", records(values(1))), alerts.add)
            wrong_s = by_s
            for seconds in (0, 9):
                passed_s += seconds
                alerts.check_silence()
                assert store.database.query("SELECT * FROM alerts") == []
            passed_s += 2
            alerts.check_silence()
            assert len(store.database.query("SELECT * FROM alerts")) == 1

    def test_of_one_device(self, now: list[float], tmp_path: Path) -> None:
        steps: list[list[Made] | float] = [[(0, "a", 1), (0, "b", 1)], 8.0, [(1, "b", 1)], 3.0]
        assert self.read(tmp_path / "file.sqlite", Rule(silent_s=10, by="device"), now, steps) == [("a", 1000)]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(), "give one of --when, --anomaly and --silent"),
        (Rule(when="1", silent_s=1), "give one of"),
        (Rule(when="1", anomaly="temperature_c"), "give one of"),
        (Rule(silent_s=1, times=2), "neither --for nor --cooldown"),
        (Rule(silent_s=1, cooldown_s=2), "neither --for nor --cooldown"),
        (Rule(when="nosuch > 1"), "no such column: nosuch; use the fields device, temperature_c"),
        (Rule(when="1", by="nosuch"), "sensors has no fitting field 'nosuch': use one of device, temperature_c$"),
        (Rule(when="1", by="tags"), "use one of device"),
        (Rule(anomaly="device"), "stream sensors has no fitting field 'device': use one of temperature_c$"),
    ],
)
def test_an_invalid_rule_is_one_line(rule: Rule, message: str) -> None:
    with pytest.raises(ToolkitError, match=message):
        rule.on(SENSORS)


def test_rules_that_differ_have_stores_that_differ() -> None:
    rules = [Rule(when=HOT), Rule(when="temperature_c > 25"), Rule(when=HOT, by=""), Rule(when=HOT, times=2)]
    rules += [Rule(anomaly=HOT), Rule(silent_s=1), Rule(when=HOT, cooldown_s=1), Rule(when=HOT, by="device")]
    assert len({rule.key for rule in rules}) == len(rules)
    assert Rule(anomaly="a", times=2).text == "anomaly of a, 2 in a row"
    assert Rule(when=HOT).key == "cbb44235"  # fixed, so that a later version continues in the same store
