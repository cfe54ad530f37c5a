"""docs/proof.md is made from the tests' markers: it names every attack and how often it runs."""

import re
from types import SimpleNamespace
from typing import cast

import pytest

from scripts import make_proof
from scripts.make_proof import Attack
from tests.conftest import attacks
from utils.app.config import PROJECT_DIR

PAGE = PROJECT_DIR / "docs" / "proof.md"


def collected(request: pytest.FixtureRequest) -> list[pytest.Item]:
    """Return the collected tests with a marker: all of them in a full run."""
    return [item for item in request.session.items if item.get_closest_marker("proof")]


def test_the_page_has_every_marker(request: pytest.FixtureRequest) -> None:
    page = PAGE.read_text("utf-8")
    missing = [row for row in map(make_proof.row, make_proof.attacks_of(collected(request))) if row not in page]
    assert not missing, "run make proof:\n" + "\n".join(missing)


def test_every_test_that_the_page_names_has_a_marker() -> None:
    named = re.findall(r"\[(test_\w+)\]\(\.\./(tests/\S+\.py)\)", PAGE.read_text("utf-8"))
    assert len(named) > 15
    for name, path in named:
        text = (PROJECT_DIR / path).read_text("utf-8")
        assert re.search(rf"mark\.proof\((?:(?!\ndef ).)*\ndef {name}\(", text, re.DOTALL), f"{path}: {name}"


def test_examples_that_are_counted_are_those_that_are_tried(request: pytest.FixtureRequest) -> None:
    for item in collected(request):
        settings = getattr(getattr(item, "obj", None), "_hypothesis_internal_use_settings", None)
        if settings:
            assert settings.max_examples == attacks(item, "full"), item.nodeid


def item(nodeid: str, *args: str, **kwargs: int | str) -> pytest.Item:
    marker = SimpleNamespace(args=args, kwargs=kwargs)
    return cast(pytest.Item, SimpleNamespace(nodeid=nodeid, get_closest_marker=lambda name: marker))


def test_a_test_with_parameters_is_one_attack() -> None:
    made = make_proof.attacks_of([item(f"t.py::test_a[{sink}]", "safe", "kill", full=2, long=1_000) for sink in "xy"])
    assert made == [Attack("safe", "kill", ("", "2", "1,000"), ("t.py::test_a[x]", "t.py::test_a[y]"))]
    assert make_proof.row(made[0]) == "| kill | - | 2 | 1,000 | [test_a](../t.py) |"


def test_a_longer_setting_attacks_at_least_as_often() -> None:
    assert make_proof.counts({"quick": 1}) == ("1", "1", "1")
    assert make_proof.counts({"full": 2}) == ("", "2", "2")


def test_the_longest_setting_that_ran_is_shown() -> None:
    attack = Attack("all is safe", "kill", ("", "2", "9"), ("t.py::test_a[x]", "t.py::test_a[y]"))
    measured = {"quick": {}, "full": {"t.py::test_a[x]": "2 kills"}, "long": {"t.py::test_a[y]": "9 kills"}}
    page = make_proof.tables([attack], measured)
    assert "## All is safe\n" in page
    assert "* kill (long, y): 9 kills" in page and "2 kills" not in page


def test_an_attack_that_was_not_measured_has_no_line() -> None:
    attack = Attack("all is safe", "kill", ("", "1", "1"), ("t.py::test_a",))
    assert "Measured last" not in make_proof.tables([attack], {})
