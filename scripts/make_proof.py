"""Write the tables of docs/proof.md from the `proof` markers of the tests: python -m scripts.make_proof.

Each marker names a guarantee, an attack on it, and how often it is made in each setting. The tests' measurements come
from `python scripts/run_tests.py --all --proof=docs/proof/full.json` and `--long --proof=docs/proof/long.json`.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.bench_table import write_part
from utils.app.config import PROJECT_DIR

PAGE = PROJECT_DIR / "docs" / "proof.md"
SETTINGS = ("quick", "full", "long")


@dataclass(frozen=True)
class Attack:
    guarantee: str
    attack: str
    counts: tuple[str, ...]  # per setting; "" = not made in it
    tests: tuple[str, ...]  # node ids; a parametrized test has several


class Collector:
    """A pytest plugin that collects the tests with a `proof` marker."""

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
    attacks = attacks_of(collector.items)
    write_part(PAGE, "guarantees", tables(attacks, measured))
    print(f"docs/proof.md: {len(attacks)} ways to attack {len({each.guarantee for each in attacks})} guarantees")


def attacks_of(items: Iterable[pytest.Item]) -> list[Attack]:
    """Return the attacks of these tests. Tests with the same guarantee, attack and counts are one attack."""
    tests: dict[tuple[str, str, tuple[str, ...]], list[str]] = defaultdict(list)
    for item in items:
        marker = item.get_closest_marker("proof")
        assert marker is not None
        guarantee, attack = marker.args
        tests[guarantee, attack, counts(marker.kwargs)].append(item.nodeid.partition("@")[0])  # without xdist group
    return [Attack(*key, tuple(found)) for key, found in tests.items()]


def counts(named: Mapping[str, int | str]) -> tuple[str, ...]:
    """Return how often an attack is made in each setting. A missing setting has the number of the shorter one."""
    found: list[str] = []
    for setting in SETTINGS:
        value = named.get(setting, found[-1] if found else "")
        found.append(f"{value:,}" if isinstance(value, int) else value)
    return tuple(found)


def tables(attacks: list[Attack], measured: Mapping[str, Mapping[str, str]]) -> str:
    """Return a table per guarantee, those about acknowledged records first, each with its measurements below it."""
    parts = list[str]()
    for guarantee in sorted({each.guarantee for each in attacks}, key=lambda each: ("acknowledged" not in each, each)):
        mine = [each for each in attacks if each.guarantee == guarantee]
        parts += [f"## {guarantee[0].upper()}{guarantee[1:]}\n", "| attack | quick | full | long | test |"]
        parts += ["|---|---:|---:|---:|---|", *map(row, mine), ""]
        if lines := [line for each in mine for line in last_measured(each, measured)]:
            parts += ["Measured last:\n", *lines, ""]
    return "\n".join(parts)


def row(attack: Attack) -> str:
    path, _, name = attack.tests[0].partition("::")
    numbers = " | ".join(count or "-" for count in attack.counts)
    return f"| {attack.attack} | {numbers} | [{name.partition('[')[0].rpartition('::')[2]}](../{path}) |"


def last_measured(attack: Attack, measured: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a line per measurement of an attack's tests, with their parameters, from the longest setting that ran."""
    for setting in reversed(SETTINGS):
        found = measured.get(setting, {})
        if ran := [(test, test.rstrip("]").partition("[")[2]) for test in attack.tests if test in found]:
            return [f"* {attack.attack} ({setting}{name and f', {name}'}): {found[test]}" for test, name in ran]
    return []


if __name__ == "__main__":
    main()
