"""Write docs/proof.md from the `proof` markers of the tests: python -m scripts.make_proof.

Each marker names a guarantee, what attacks it, and how often in each setting. What the tests measured comes from the
files that `python scripts/run_tests.py --all --proof=docs/proof/full.json` and, with --long, `docs/proof/long.json`
leave behind.
"""

import argparse
import contextlib
import io
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT_DIR = Path(__file__).resolve().parent.parent
PAGE = PROJECT_DIR / "docs" / "proof.md"
SETTINGS = ("quick", "full", "long")
HEAD = """# Proof

What the toolkit promises, what attacks each promise, and how often. This page is written by
`python -m scripts.make_proof` from the markers of the tests themselves: what it names is what runs.

| setting | command | when |
|---|---|---|
| quick | `python scripts/run_tests.py` | while you work; unit tests and contracts, under a minute |
| full | `python scripts/run_tests.py --all` | every change, in the continuous integration |
| long | `python scripts/run_tests.py --long` | before a release; hours |

*Each*, *every one*: all that there are. Random attacks have a seed; a failure comes again.
"""
NOT_PROMISED = "## What is not promised"
TAIL = """
## How else it is checked

* The same contract suite runs over every sink (`tests/emitters/test_contract.py`, for Kafka in `tests/kafka`), and each
  of its checks must catch an emitter that is broken on purpose.
* `python -m verify_emitters audit` compares your own sinks with your own journals; other code reads than wrote.
* `python -m scripts.chaos --kills 20 --minutes 1` attacks on your machine, and then audits.
"""


@dataclass(frozen=True)
class Attack:
    guarantee: str
    attack: str
    counts: tuple[str, ...]  # per setting; "" = not part of it
    tests: tuple[str, ...]  # node ids; one that is parametrized has several


class Collector:
    """A plugin of pytest that keeps the tests with a marker."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.items += [item for item in items if item.get_closest_marker("proof")]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    collector, printed = Collector(), io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", str(PROJECT_DIR)], plugins=[collector])
    if code:
        sys.exit(f"the tests cannot be collected:\n{printed.getvalue()[-2000:]}")
    files = {setting: PAGE.parent / "proof" / f"{setting}.json" for setting in SETTINGS}
    measured = {setting: json.loads(path.read_text("utf-8")) for setting, path in files.items() if path.exists()}
    limits = (PROJECT_DIR / "docs" / "architecture.md").read_text("utf-8").partition(NOT_PROMISED)[2]
    attacks = attacks_of(collector.items)
    PAGE.write_text(page(attacks, measured, limits.partition("\n## ")[0].strip()), encoding="utf-8")
    print(f"docs/proof.md: {len(attacks)} ways to attack {len({each.guarantee for each in attacks})} guarantees")


def attacks_of(items: Iterable[pytest.Item]) -> list[Attack]:
    """Every attack that these tests name; those that have all in common but their parameters are one."""
    tests: dict[tuple[str, str, tuple[str, ...]], list[str]] = defaultdict(list)
    for item in items:
        marker = item.get_closest_marker("proof")
        assert marker is not None
        guarantee, attack = marker.args
        tests[guarantee, attack, counts(marker.kwargs)].append(item.nodeid.partition("@")[0])  # its group
    return [Attack(*key, tuple(found)) for key, found in tests.items()]


def counts(named: Mapping[str, int | str]) -> tuple[str, ...]:
    """How often in each setting; one that is not named attacks as often as the next shorter one."""
    found: list[str] = []
    for setting in SETTINGS:
        value = named.get(setting, found[-1] if found else "")
        found.append(f"{value:,}" if isinstance(value, int) else value)
    return tuple(found)


def page(attacks: list[Attack], measured: Mapping[str, Mapping[str, str]], limits: str) -> str:
    """The page: a table per guarantee, and below it what was measured."""
    parts = [HEAD]
    for guarantee in sorted({each.guarantee for each in attacks}, key=lambda each: ("acknowledged" not in each, each)):
        mine = [each for each in attacks if each.guarantee == guarantee]
        parts += [f"## {guarantee[0].upper()}{guarantee[1:]}\n", "| attack | quick | full | long | test |"]
        parts += ["|---|---:|---:|---:|---|", *map(row, mine)]
        lines = [line for each in mine for line in last_measured(each, measured)]
        parts += ["\nMeasured last:\n", *lines, ""] if lines else [""]
    return "\n".join([*parts, f"{NOT_PROMISED}\n\n{limits}\n{TAIL}"])


def row(attack: Attack) -> str:
    path, _, name = attack.tests[0].partition("::")
    numbers = " | ".join(count or "-" for count in attack.counts)
    return f"| {attack.attack} | {numbers} | [{name.partition('[')[0].rpartition('::')[2]}](../{path}) |"


def last_measured(attack: Attack, measured: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What its tests measured, in the longest setting that was run; with what tells the tests of one function apart."""
    for setting in reversed(SETTINGS):
        found = measured.get(setting, {})
        if ran := [(test, test.rstrip("]").partition("[")[2]) for test in attack.tests if test in found]:
            return [f"* {attack.attack} ({setting}{name and f', {name}'}): {found[test]}" for test, name in ran]
    return []


if __name__ == "__main__":
    main()
