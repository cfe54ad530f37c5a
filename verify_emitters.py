"""Checks for users: `check` tests each emitter, `audit` compares the sinks, `doctor` examines the set-up."""

if __name__ == "__main__":
    from utils.app import startup

    startup.check_environment()

import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from utils.app import cli
from utils.app.config import DEFAULTS, PRODUCING, READING, Reads, Settings, isolate_matplotlib
from utils.app.options import Json
from utils.sinks import ALL, Sinks

Which = Annotated[Sinks, Parameter(show_default=False, help="Only these sinks.")]


def check(*, sinks: Which = (), json: Json = False, settings: Annotated[Settings, Reads(*PRODUCING)] = DEFAULTS) -> int:
    """Write one record through each emitter in a temporary place and read it back.

    Exit code 1 if a sink failed. A Kafka broker that is not running counts only with --sinks kafka.
    """
    from utils.checks import check

    results = [check.check(sink, settings) for sink in sinks or ALL]
    if json:
        cli.print_json(results)
    else:
        rows = [(each.sink, each.result, f"{each.seconds * 1000:.0f} ms", each.reason) for each in results]
        cli.print_table(("sink", "result", "time", "reason"), rows)
    accepted = ("ok",) if sinks else ("ok", "not running")
    return 0 if all(each.result in accepted for each in results) else cli.CHECK_FAILED


def audit(
    *,
    sinks: Which = (),
    stream: Annotated[
        str | None, Parameter(name="--stream", help="Only this stream (default: all that the data folder knows).")
    ] = None,
    json: Json = False,
    settings: Annotated[Settings, Reads(*READING)] = DEFAULTS,
) -> int:
    """Check that each sink contains every acknowledged record once, equal to the other sinks, and in order.

    Producers may run meanwhile: only records acknowledged before the audit began are judged. Exit code 1 if a record
    is lost, duplicate, different or out of order; 3 if a sink could not be read.
    """
    from utils.checks.journals import audited_sinks

    return print_audit(settings, sinks or audited_sinks(settings, stream), json, stream)


def print_audit(settings: Settings, sinks: Sequence[str], json: bool = False, stream: str | None = None) -> int:
    """Audit with progress, print the report, and return the exit code."""
    from utils.checks.audit import COLUMNS
    from utils.checks.audit import audit as compare
    from utils.checks.journals import journal_summaries

    expected = sum(each.last for each in journal_summaries(settings) if stream in (None, each.stream)) * len(sinks)
    with cli.progress(expected or None, "records") as advance:
        report = compare(settings, sinks, stream, advance)
    if json:
        cli.print_json(report)
    else:
        cli.print_table(COLUMNS, report.rows())
        cli.print_lines(*report.lines(len(sinks)))
    if report.broken:
        return cli.CHECK_FAILED
    return startup.UNFINISHED if report.unread else 0


def doctor(*, json: Json = False, settings: Settings = DEFAULTS) -> int:
    """Check .env, Python, packages, data folder, journals, sinks, Kafka and dashboard.

    Each line is ok, a note or a problem with its remedy. Exit code 1 if there is a problem.
    """
    from utils.checks.doctor import examine

    found = list(examine(settings, _backend))
    if json:
        cli.print_json(found)
    else:
        rows = [(each.topic, each.state, each.text, each.remedy) for each in found]
        cli.print_table(("what", "state", "found", "what to do"), rows)
    return cli.CHECK_FAILED if any(each.state == "problem" for each in found) else 0


def _backend() -> str:
    """Return the name of the matplotlib backend. Raises ToolkitError or ImportError if the dashboard cannot draw."""
    from consumers.dashboard.options import STYLE

    asked = isolate_matplotlib(STYLE)
    from consumers.dashboard.animation import window_backend

    return window_backend(asked) or "images without a window"


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return cli.run(check, check, audit, doctor, name="verify_emitters", arguments=arguments)


if __name__ == "__main__":
    sys.exit(run())
