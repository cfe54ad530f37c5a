"""Proof that anyone can run: does each emitter work here, do the sinks agree, is this machine set up well?"""

import sys
from collections.abc import Sequence
from typing import Annotated

import msgspec
from cyclopts import Parameter

from utils import cli
from utils.config import ALL_SINKS, DEFAULTS, Json, Settings, Sinks
from utils.message import encoder

Which = Annotated[Sinks, Parameter(show_default=False, help="Only these sinks.")]


def print_json(report: object) -> None:
    """Print a report for programs."""
    print(msgspec.json.format(encoder.encode(report)).decode())


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table, markup=False)


def check(*, sinks: Which = (), json: Json = False, settings: Settings = DEFAULTS) -> int:
    """Write one message through each emitter in a temporary place and read it back.

    Exit code 1 if a sink failed. A Kafka broker that is not running counts only with --sinks kafka.
    """
    from utils import check

    results = [check.check(sink, settings) for sink in sinks or ALL_SINKS]
    if json:
        print_json(results)
    else:
        rows = [(each.sink, each.result, f"{each.seconds * 1000:.0f} ms", each.reason) for each in results]
        print_table(("sink", "result", "time", "reason"), rows)
    accepted = ("ok",) if sinks else ("ok", "not running")
    return 0 if all(each.result in accepted for each in results) else cli.CHECK_FAILED


def audit(*, sinks: Which = (), json: Json = False, settings: Settings = DEFAULTS) -> int:
    """Compare the sinks with the journals and with each other: every acknowledged message, once, alike, in order.

    Runs beside live producers and judges what was acknowledged before it began. Exit code 1 if anything
    is lost, double, different or out of order; 3 if a sink could not be read.
    """
    from utils import audit

    chosen = sinks or audit.audited_sinks(settings)
    expected = sum(each.last for each in audit.accounts(settings).values()) * len(chosen)
    with cli.progress(expected or None, "messages") as advance:
        report = audit.audit(settings, chosen, advance)
    if json:
        print_json(report)
    else:
        rows = [
            (
                each.producer_id,
                each.sink if each.owed else f"{each.sink} (not owed)",
                *(f"{number:,}" for number in (each.first, each.last, each.count, each.waiting, each.dead_letters)),
                "; ".join(each.problems()) or "ok",
            )
            for each in report.judgements
        ]
        print_table(("producer", "sink", "first", "last", "messages", "waiting", "dead letters", "result"), rows)
        for line in report.lines():
            print(line)
    if report.broken:
        return cli.CHECK_FAILED
    return cli.UNFINISHED if report.unread else 0


def run(arguments: list[str] | None = None) -> int:
    """The command line; the exit code."""
    return cli.run(check, check, audit, name="verify_emitters", arguments=arguments)


if __name__ == "__main__":
    sys.exit(run())
