"""Consumer that stores an alert when a condition begins to hold, and delivers it."""

import sys
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import Annotated

from cyclopts import Parameter

from utils.app import cli, signals
from utils.app.config import DEFAULT_STREAM, DEFAULTS, READING, Reads, Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.app.options import DEFAULT_READING, Drain, ReadingOptions, StreamName
from utils.app.startup import UNFINISHED
from utils.reading.alert_delivery import AlertDelivery, send_to
from utils.reading.alerts import Alerts, Rule
from utils.reading.processing import StoreReader, wait_for_stream
from utils.reading.progress import Progress
from utils.reading.store import ProcessedStore
from utils.records.stream import Stream
from utils.sinks import AUTO, ChosenSource, source

NO_RULE = Rule()


def main(
    *,
    stream: StreamName = DEFAULT_STREAM,
    rule: Rule = NO_RULE,
    then: Annotated[
        str,
        Parameter(
            name="--then",
            show_default=False,
            help="Command to run, with the alert as JSON on its standard input, or URL to call.",
        ),
    ] = "",
    source_name: ChosenSource = AUTO,
    reading: ReadingOptions = DEFAULT_READING,
    drain: Drain = 10.0,
    settings: Annotated[Settings, Reads(*READING, "group")] = DEFAULTS,
) -> int:
    """Give one alert each time a condition begins to hold: log it, append it to data/alerts.jsonl, deliver it.

    Each rule reads each record once, also after a kill. A new rule reads all older records, unless --from end.
    """
    send, stop = send_to(then) if then else None, signals.stop_on_signals()
    if reading.once and rule.silent_s is not None:
        raise ToolkitError("--silent has to wait, and --once ends without waiting: leave one of them out")
    found = wait_for_stream(stream, settings, source_name, stop, once=reading.once)
    name, rule, chosen = f"alerts-{rule.key}", rule.on(found), settled(source_name, settings, found)
    consumer = StoreReader(chosen, name, replace(settings, group=f"{settings.group}-{name}"), reading, stop)
    about, path = {"stream": found.name, "by": rule.by or ""}, settings.alerts_path
    with closing(consumer.open(found)) as store:
        alerts, progress = Alerts(store, rule), Progress("alerts", store.stream)
        with closing(AlertDelivery(consumer.database(found), about, path, send)) as delivery:
            delivery.start()
            consumer.read(store, alerts.add, progress, lambda new: progress.show(), partial(wait, alerts, progress))
            stored, undelivered = alerts.delivered(drain)
        report(store, progress, stored, undelivered, as_json=reading.json)
    return UNFINISHED if undelivered else 0


def wait(alerts: Alerts, progress: Progress, error: Unavailable | None) -> None:
    """Check for silence and show the progress before a wait. See OnWait."""
    if error is None:  # a source that cannot be read is not silent
        with suppress(Unavailable):  # the next wait tries again
            alerts.check_silence()
    progress.show()


def report(store: ProcessedStore, progress: Progress, stored: int, undelivered: int, *, as_json: bool) -> None:
    """Print the counts of the run, and the numbers of stored and of undelivered alerts."""
    if as_json:
        totals = {"alerts": stored, "delivered": stored - undelivered}
        cli.print_json({"stream": store.stream.name, "run": store.run.items(), **totals})
    else:
        rest = f", {undelivered:,} not yet delivered: run it again" if undelivered else ""
        cli.print_lines(progress.end(), f"in the store: {cli.counted(stored, 'alert')}{rest}")


def settled(source_name: str, settings: Settings, stream: Stream) -> str:
    """Return the sink that `auto` stands for now, or `auto` if no sink has data.

    The automatic source may change to a sink whose partitions, and so the matches in a row, all begin anew.
    """
    if source_name != AUTO:
        return source_name
    with suppress(Unavailable), closing(source(AUTO, settings, stream, lambda partition: "", finished=True)) as reader:
        reader.poll(1)
        return reader.name
    return AUTO


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.alert_consumer"))
