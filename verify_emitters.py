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


if __name__ == "__main__":
    sys.exit(cli.run(check, check, name="verify_emitters"))
