"""Rules that give alerts. Alerts are stored with the position, in one transaction of a processed store."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated
from zlib import crc32

import msgspec
from cyclopts import Parameter

from utils.app.errors import ToolkitError
from utils.app.options import POSITIVE, whole
from utils.reading.anomaly import TRAILING, floor_of, stands_out
from utils.reading.database import make_tables, one_of, upsert
from utils.reading.expression import Expression
from utils.reading.store import ProcessedStore, Stored
from utils.records.infer import text_getter
from utils.records.stream import Stream

NO_RECORD = "null"  # the record of an alert about silence
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS alerts (id TEXT PRIMARY KEY, alert TEXT NOT NULL, name TEXT NOT NULL, event_us BIGINT, "
    "stored_us BIGINT NOT NULL, record TEXT NOT NULL, attempts BIGINT NOT NULL DEFAULT 0, "
    "due_us BIGINT DEFAULT 0)",  # NULL once it is delivered
    "CREATE INDEX IF NOT EXISTS alerts_due ON alerts (due_us) WHERE due_us IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS alert_states (partition TEXT, name TEXT, seen_us BIGINT NOT NULL, state TEXT NOT NULL, "
    "PRIMARY KEY (partition, name))",
)
_STORE = (
    "INSERT INTO alerts (id, alert, name, event_us, stored_us, record) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_FIND = "SELECT name, state FROM alert_states WHERE partition = ? AND name IN"
_SAVE = upsert("alert_states", "partition, name", "seen_us, state")
_BEGIN = "INSERT INTO alert_states VALUES ('', '', ?, '[]') ON CONFLICT DO NOTHING"
_SILENT = """SELECT name, MAX(seen_us) FROM alert_states GROUP BY name HAVING MAX(seen_us) <= ?
    EXCEPT SELECT name, event_us FROM alerts"""
_ALL_DUE = "UPDATE alerts SET due_us = 0, attempts = CASE attempts WHEN 0 THEN 0 ELSE 1 END WHERE due_us IS NOT NULL"


_When = Parameter(
    name="--when", help="SQL condition over a record's fields, such as 'temperature_c > 24'.", show_default=False
)
_Anomaly = Parameter(name="--anomaly", help="Number field to watch for unlikely values.", show_default=False)
_Silent = Parameter(name="--silent", help="Alert after this many seconds without a record.", validator=POSITIVE)
_By = Parameter(
    name="--by", help="Field with separate alerts for each value ('' = none); default: the stream's role by."
)
_For = Parameter(name="--for", help="Records in a row that must match.", converter=whole, validator=POSITIVE)
_Cooldown = Parameter(name="--cooldown", help="Minimum seconds of event time between two alerts.", validator=POSITIVE)


Clock = Callable[[], float]


def steady_clock() -> Clock:
    """Return a clock of the seconds since 1970 that ignores changes of the system time and stops during sleep."""
    ahead_s = time.time() - time.monotonic()
    return lambda: time.monotonic() + ahead_s


@Parameter(name="*")
@dataclass(frozen=True)
class Rule:
    """The condition of an alert (one of `when`, `anomaly` and `silent_s`) and how often the alert is given.

    `by` "" stands for no field, None for that of the stream, or with `silent_s` for none. `cooldown_s` is event time.
    """

    when: Annotated[str, _When] = ""
    anomaly: Annotated[str, _Anomaly] = ""
    silent_s: Annotated[float | None, _Silent] = None
    by: Annotated[str | None, _By] = None
    times: Annotated[int, _For] = 1
    cooldown_s: Annotated[float | None, _Cooldown] = None

    @property
    def text(self) -> str:
        """The condition in words."""
        if self.silent_s is not None:
            return f"silent for {self.silent_s:g} s"
        row = f", {self.times} in a row" if self.times > 1 else ""
        return (self.when or f"anomaly of {self.anomaly}") + row

    @property
    def key(self) -> str:
        """Eight characters that identify the rule: each rule has a store of its own."""
        parts = (self.when, self.anomaly, self.silent_s, self.by, self.times, self.cooldown_s)
        return f"{crc32(repr(parts).encode()):08x}"

    def on(self, stream: Stream) -> "Rule":
        """Return the rule with its field `by`. Raises ToolkitError if the options or the stream's fields do not fit."""
        if (bool(self.when), bool(self.anomaly), self.silent_s is not None).count(True) != 1:
            raise ToolkitError("give one of --when, --anomaly and --silent; a second rule is a second alert_consumer")
        if self.silent_s is not None and (self.times > 1 or self.cooldown_s):
            raise ToolkitError("--silent is about the time between records: it takes neither --for nor --cooldown")
        if self.when:
            Expression(stream, self.when)
        by = self.by
        if by is None:
            by = stream.by if stream.by and self.silent_s is None else ""
        for name, kinds in ((by, {"text", "integer", "number", "boolean"}), (self.anomaly, {"integer", "number"})):
            names = [field.name for field in stream.fields if field.type in kinds]
            if name and name not in names:
                raise ToolkitError(f"stream {stream.name} has no fitting field {name!r}: use one of {', '.join(names)}")
        return replace(self, by=by)


class AlertState(msgspec.Struct, array_like=True):
    """Alert state of one `by` value in a partition."""

    matches: int = 0  # in a row, `times` at most
    active: bool = False  # these matches have given their alert
    alert_us: int | None = None  # event time of the latest alert
    trail: list[float] = []  # the latest values of the field `anomaly`

    def gives_alert(self, hit: bool, at_us: int | None, rule: Rule) -> bool:
        """Count the next record and return whether it gives an alert. After a cooldown the next match gives it."""
        if not hit:
            self.matches, self.active = 0, False
            return False
        self.matches = min(self.matches + 1, rule.times)
        if self.active or self.matches < rule.times:
            return False
        cooldown_us = (rule.cooldown_s or 0) * 1e6  # in both directions: a wrong clock may date an alert ahead
        if at_us is not None and self.alert_us is not None and abs(at_us - self.alert_us) < cooldown_us:
            return False
        self.active, self.alert_us = True, self.alert_us if at_us is None else at_us
        return True

    def stands_out(self, value: float | None, floor: float | None) -> bool:
        """Return whether a value is an anomaly, and add it to the trail."""
        if value is None:
            return False
        trail, self.trail = self.trail, [*self.trail[1 - TRAILING :], float(value)]
        return stands_out(value, trail, floor)


_state = msgspec.json.Decoder(AlertState)


class Alerts:
    """The alerts of a rule, found in the new records of a store and kept there.

    All state is in the store, per partition, so a restarted consumer or another copy of it continues exactly.
    """

    def __init__(self, store: ProcessedStore, rule: Rule, clock: Clock | None = None) -> None:
        self.rule, self._clock = rule, clock or steady_clock()
        self._began_s = self._clock()
        self._database, self._stream = store.database, store.stream
        self._when = Expression(store.stream, rule.when) if rule.when else None
        with self._database.transaction():
            make_tables(self._database, *_SCHEMA)
            self._database.execute(_ALL_DUE)  # every run begins with the undelivered alerts of earlier ones
            if not rule.by:  # a stream may be silent from the beginning
                self._database.execute(_BEGIN, round(self._began_s * 1e6))

    def add(self, stored: Stored) -> None:
        """Store the alerts that new records give, in the transaction that stored them. See ProcessedStore.add."""
        rule, database, value = self.rule, self._database, self._stream.codec.value
        records = [record for record, *_ in stored.new]
        names = list(map(text_getter(self._stream, rule.by), records))
        matches = self._when.matches(records) if self._when else [False] * len(records)
        states = {name: AlertState() for name in names}
        found = database.execute(f"{_FIND} {one_of(states)}", stored.partition, *states).fetchall()
        states |= {name: _state.decode(state) for name, state in found}
        alerts, now_us, floor = [], round(self._clock() * 1e6), floor_of(self._stream, rule.anomaly)
        for (record, at_us, *_), name, match in zip(stored.new, names, matches, strict=True):
            hit = states[name].stands_out(value(record, rule.anomaly), floor) if rule.anomaly else match
            if states[name].gives_alert(hit, at_us, rule):
                line = self._stream.codec.encode(record).decode()
                alerts.append((uuid.uuid4().hex, rule.text, name, at_us, now_us, line))
        database.execute_many(_STORE, alerts)
        rows = [(stored.partition, name, now_us, msgspec.json.encode(states[name]).decode()) for name in sorted(states)]
        database.execute_many(_SAVE, rows)

    def check_silence(self) -> None:
        """Store an alert for each silence of `silent_s`. Call it only when there is nothing left to read.

        A silence begins with the last record, but this run gives no alert before it has waited `silent_s` itself.
        """
        silent_s, now_s = self.rule.silent_s, self._clock()
        if silent_s is None or now_s - self._began_s < silent_s:
            return
        if silent := self._database.query(_SILENT, round((now_s - silent_s) * 1e6)):
            text, now_us = self.rule.text, round(now_s * 1e6)
            rows = [(self._silence_id(*each), text, *each, now_us, NO_RECORD) for each in sorted(silent)]
            with self._database.transaction():
                self._database.execute_many(_STORE, rows)

    def delivered(self, timeout_s: float) -> tuple[int, int]:
        """Wait up to `timeout_s` for all deliveries. Return the numbers of stored and of undelivered alerts."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            ((stored, undelivered),) = self._database.query("SELECT COUNT(*), COUNT(due_us) FROM alerts")
            if not undelivered or time.monotonic() > deadline_s:
                return stored, undelivered
            time.sleep(0.02)

    def _silence_id(self, name: str, seen_us: int) -> str:
        """Return an id that is the same in all copies and runs that notice this silence."""
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{self._stream.name} {self.rule.key} {seen_us} {name}").hex
