"""When a stream gives an alert, as part of a processed store: alerts and positions change in one transaction."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any
from zlib import crc32

import msgspec
from cyclopts import Parameter

from utils.app.config import positive, whole
from utils.app.errors import ToolkitError
from utils.reading.anomaly import TRAILING, floor_of, stands_out
from utils.reading.database import Database
from utils.reading.expression import Expression
from utils.reading.windows import namer
from utils.records.infer import event_time
from utils.records.stream import Stream
from utils.sources.base import Chunk

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS alerts (id TEXT PRIMARY KEY, alert TEXT NOT NULL, name TEXT NOT NULL, event_us BIGINT, "
    "stored_us BIGINT NOT NULL, record TEXT NOT NULL, attempts BIGINT NOT NULL DEFAULT 0, "
    "due_us BIGINT DEFAULT 0)",  # NULL once it is delivered
    "CREATE INDEX IF NOT EXISTS alerts_due ON alerts (due_us) WHERE due_us IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS alert_states (partition TEXT, name TEXT, seen_us BIGINT NOT NULL, "
    "matches BIGINT NOT NULL, active BOOLEAN NOT NULL, alert_us BIGINT, trail TEXT NOT NULL, "
    "PRIMARY KEY (partition, name))",
)
_STORE = (
    "INSERT INTO alerts (id, alert, name, event_us, stored_us, record) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_FIND = "SELECT name, matches, active, alert_us, trail FROM alert_states WHERE partition = ? AND name IN"
_SAVE = """INSERT INTO alert_states VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (partition, name) DO UPDATE SET
    seen_us = excluded.seen_us, matches = excluded.matches, active = excluded.active, alert_us = excluded.alert_us,
    trail = excluded.trail"""
_SILENT = "SELECT name, MAX(seen_us) FROM alert_states GROUP BY name HAVING MAX(seen_us) <= ?"
_ALL_DUE = "UPDATE alerts SET due_us = 0, attempts = CASE attempts WHEN 0 THEN 0 ELSE 1 END WHERE due_us IS NOT NULL"
_trail = msgspec.json.Decoder(list[float])


@Parameter(name="*")
@dataclass(frozen=True)
class Rule:
    """What gives an alert: one condition (`when`, `anomaly` or `silent_s`), and how often.

    `by` None stands for the field that the stream names, "" for the whole stream. `cooldown_s` is event time.
    """

    when: Annotated[
        str, Parameter(name="--when", show_default=False, help="SQL over a record's fields: 'temperature_c > 24'.")
    ] = ""
    anomaly: Annotated[
        str, Parameter(name="--anomaly", show_default=False, help="Number field whose unlikely values give an alert.")
    ] = ""
    silent_s: Annotated[
        float | None,
        Parameter(name="--silent", validator=positive, help="Alert after so many seconds without a record."),
    ] = None
    by: Annotated[
        str | None,
        Parameter(name="--by", help="Field whose values have alerts of their own, '' = none; else the stream's by."),
    ] = None
    times: Annotated[
        int, Parameter(name="--for", converter=whole, validator=positive, help="Records in a row until the alert.")
    ] = 1
    cooldown_s: Annotated[
        float | None,
        Parameter(name="--cooldown", validator=positive, help="Seconds of event time from an alert to the next."),
    ] = None

    @property
    def text(self) -> str:
        """The condition for people."""
        if self.silent_s is not None:
            return f"silent for {self.silent_s:g} s"
        row = f", {self.times} in a row" if self.times > 1 else ""
        return (self.when or f"anomaly of {self.anomaly}") + row

    @property
    def key(self) -> str:
        """The same eight characters for the same rule: each has a store of its own."""
        parts = (self.when, self.anomaly, self.silent_s, self.by, self.times, self.cooldown_s)
        return f"{crc32(repr(parts).encode('utf-8', 'backslashreplace')):08x}"

    def on(self, stream: Stream) -> "Rule":
        """The rule for this stream. Raises ToolkitError, which names the fields, if it has none."""
        if (bool(self.when), bool(self.anomaly), self.silent_s is not None).count(True) != 1:
            raise ToolkitError("give one of --when, --anomaly and --silent: each has a consumer of its own")
        if self.silent_s is not None and (self.times > 1 or self.cooldown_s):
            raise ToolkitError("--silent is about the time between records: it takes neither --for nor --cooldown")
        if self.when:
            Expression(stream, self.when)
        by = ("" if self.silent_s is not None else stream.by or "") if self.by is None else self.by
        for name, kinds in ((by, {"text", "integer", "number", "boolean"}), (self.anomaly, {"integer", "number"})):
            fields = [field.name for field in stream.fields if field.type in kinds]
            if name and name not in fields:
                raise ToolkitError(f"{name!r} is no such field of stream {stream.name}: use one of {', '.join(fields)}")
        return replace(self, by=by)


class State(msgspec.Struct, array_like=True):
    """What is known of one `by` value: matches in a row, whether this crossing had its alert, when the last one was."""

    matches: int = 0
    active: bool = False
    alert_us: int | None = None
    trail: list[float] = []

    def gives_alert(self, hit: bool, at_us: int | None, rule: Rule) -> bool:
        """Take the next record in; whether it gives an alert. One that the cooldown held back comes after it."""
        if not hit:
            self.matches, self.active = 0, False
            return False
        self.matches = min(self.matches + 1, rule.times)
        if self.active or self.matches < rule.times:
            return False
        if at_us is not None and self.alert_us is not None and at_us < self.alert_us + (rule.cooldown_s or 0) * 1e6:
            return False
        self.active, self.alert_us = True, self.alert_us if at_us is None else at_us
        return True

    def stands_out(self, value: float | None, floor: float | None) -> bool:
        """Whether a value is an anomaly; then remember it for the next ones."""
        if value is None:
            return False
        trail, self.trail = self.trail, [*self.trail[1 - TRAILING :], float(value)]
        return stands_out(value, trail, floor)


class Alerts:
    """The alerts of a rule and what is to be remembered for the next ones, per partition. See Part.

    Nothing is remembered outside of the store, so a restart or another copy continues exactly.
    """

    def __init__(self, rule: Rule, clock: Callable[[], float] = time.time) -> None:
        self.rule, self._clock, self._began_s = rule, clock, clock()
        self._stream: Stream
        self._when: Expression | None = None
        self._known: set[tuple[str, int]] = set()  # silences that have their alert

    def prepare(self, database: Database, stream: Stream) -> None:
        for statement in _SCHEMA:
            database.execute(statement)
        database.execute(_ALL_DUE)  # what was not delivered is tried again by every run
        self._stream, self._when = stream, Expression(stream, self.rule.when) if self.rule.when else None
        if self.rule.silent_s is not None and not self.rule.by:  # a stream may be silent from the beginning
            nothing = ("", "", round(self._began_s * 1e6), 0, False, None, "[]")
            database.execute(_SAVE.partition("DO UPDATE")[0] + "DO NOTHING", *nothing)

    def add(self, database: Database, chunk: Chunk, new: Sequence[Any]) -> None:
        rule, value = self.rule, self._stream.codec.value
        names = list(map(namer(self._stream, rule.by), new))
        states, event_us = self._states(database, chunk.partition, names), event_time(self._stream)
        matches = self._when.matches(new) if self._when else [False] * len(new)
        alerts, now_us, floor = [], round(self._clock() * 1e6), floor_of(self._stream, rule.anomaly)
        for record, name, match in zip(new, names, matches, strict=True):
            state, at_us = states[name], event_us(record)
            hit = state.stands_out(value(record, rule.anomaly), floor) if rule.anomaly else match
            if rule.silent_s is None and state.gives_alert(hit, at_us, rule):
                line = self._stream.codec.encode(record).decode()
                alerts.append((uuid.uuid4().hex, rule.text, name, at_us, now_us, line))
        database.execute_many(_STORE, alerts)
        rows = [
            (chunk.partition, name, now_us, each.matches, each.active, each.alert_us, str(each.trail))
            for name, each in sorted(states.items())
        ]
        database.execute_many(_SAVE, rows)

    def _states(self, database: Database, partition: str, names: Sequence[str]) -> dict[str, State]:
        states = {name: State() for name in names}
        query = f"{_FIND} ({', '.join('?' * len(states))})"
        for name, matches, active, alert_us, trail in database.execute(query, partition, *states).fetchall():
            states[name] = State(matches, bool(active), alert_us, _trail.decode(trail))
        return states

    def check_silence(self, database: Database) -> None:
        """Store an alert for each silence that has lasted long enough; call it when everything that came was read.

        A silence counts from what came last, but not before this run has waited as long itself.
        """
        silent_s, now_s = self.rule.silent_s, self._clock()
        if silent_s is None or now_s - self._began_s < silent_s:
            return
        latest_us = round((now_s - silent_s) * 1e6)
        with database.errors():
            silent = database.execute(_SILENT, latest_us).fetchall()
        if found := set(silent) - self._known:
            text, now_us = self.rule.text, round(now_s * 1e6)
            rows = [(self._silence_id(*each), text, each[0], each[1], now_us, "null") for each in sorted(found)]
            with database.transaction():
                database.execute_many(_STORE, rows)
            self._known = set(silent)

    def _silence_id(self, name: str, seen_us: int) -> str:
        """The same for all copies and runs that notice this silence."""
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{self._stream.name} {self.rule.key} {seen_us} {name}").hex
