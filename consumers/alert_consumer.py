"""Reads a stream in order to act: stores an alert when a condition is met, and delivers it."""

import sys
from contextlib import closing, suppress
from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from utils.app import cli, signals
from utils.app.config import BUZZ, DEFAULTS, FOLLOWING, READING, Drain, Reading, Reads, Settings, StreamName
from utils.app.early import UNFINISHED
from utils.app.errors import ToolkitError, Unavailable
from utils.reading.alert_delivery import AlertDelivery, send_to
from utils.reading.alerts import Alerts, Rule
from utils.reading.database import Database
from utils.reading.processing import read_into, store_database, wait_for, wait_for_stream
from utils.reading.progress import Progress
from utils.reading.store import ProcessedStore
from utils.records.stream import Stream
from utils.sinks import AUTO, ChosenSource, source
from utils.sources.base import Chunk

NO_RULE = Rule()


def main(
    *,
    stream: StreamName = BUZZ,
    rule: Rule = NO_RULE,
    then: Annotated[
        str,
        Parameter(name="--then", show_default=False, help="Command (the alert as JSON on its standard input) or URL."),
    ] = "",
    source_name: ChosenSource = AUTO,
    reading: Reading = FOLLOWING,
    drain: Drain = 10.0,
    settings: Annotated[Settings, Reads(*READING, "group")] = DEFAULTS,
) -> int:
    """Give one alert each time that a condition begins to be met; log it, append it to data/alerts.jsonl, deliver it.

    A rule is read once, whatever is killed: --from end passes over what is already there.
    """
    send, stop = send_to(then) if then else None, signals.stop_on_signals()
    if reading.once and rule.silent_s is not None:
        raise ToolkitError("--silent waits for what does not come, and --once for nothing: leave one of them out")
    found = wait_for_stream(stream, settings, source_name, stop, once=reading.once)
    if found is None:
        return 0
    name, alerts, chosen = f"alerts-{rule.key}", Alerts(rule.on(found)), settled(source_name, settings, found)
    own = replace(settings, group=f"{settings.group}-{name}")

    def open_store() -> tuple[Database, ProcessedStore]:
        database = store_database(chosen, found, own, name)
        return database, ProcessedStore(database, found, reading.start, [alerts])

    opened = wait_for(open_store, stop, once=reading.once)
    if opened is None:
        return 0
    database, store = opened
    with closing(store):
        about = {"stream": found.name, "by": alerts.rule.by or ""}
        runner = Runner(store, alerts, AlertDelivery(database, about, settings.data_path / "alerts.jsonl", send))
        read_into(store, chosen, own, reading, stop, handle=runner.handle, on_wait=runner.wait)
        return runner.end(drain, as_json=reading.json)


def settled(source_name: str, settings: Settings, stream: Stream) -> str:
    """The sink that `auto` stands for, as long as it has data: what is in a row is known per partition.

    The automatic source itself would now and then continue in a sink where everything is yet to be read.
    """
    if source_name != AUTO:
        return source_name
    with suppress(Unavailable), closing(source(AUTO, settings, stream, lambda partition: "", finished=True)) as reader:
        reader.poll(1)
        return reader.name
    return AUTO


class Runner:
    """Hands chunks to the store, and takes care of silence and delivery in between."""

    def __init__(self, store: ProcessedStore, alerts: Alerts, delivery: AlertDelivery) -> None:
        self._store, self._alerts, self._delivery = store, alerts, delivery
        self._progress = Progress("alerts", store.stream)

    def handle(self, chunk: Chunk) -> int:
        new = self._store.add(chunk)
        self._progress.saw(chunk.records, self._store.run)
        self._step()
        return new

    def wait(self, error: Unavailable | None) -> None:
        """Notice silence, unless the source cannot be read; see `OnWait`."""
        if error is None:
            with suppress(Unavailable):  # asked again in a moment, and the delivery logs it
                self._alerts.check_silence(self._delivery.database)
        self._step()

    def _step(self) -> None:
        self._progress.show()
        self._delivery.step()

    def end(self, drain_s: float, *, as_json: bool) -> int:
        """Deliver what is left and print the totals; the exit code."""
        stored, left = self._delivery.finish(drain_s)
        totals = {"alerts": stored, "delivered": stored - left}
        if as_json:
            cli.print_json({"stream": self._store.stream.name, "run": self._store.run.items(), **totals})
        else:
            rest = f", {left:,} not yet delivered: run it again" if left else ""
            cli.print_lines(self._progress.end(), f"in the store: {stored:,} alert{'s' * (stored != 1)}{rest}")
        return UNFINISHED if left else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.alert_consumer"))
