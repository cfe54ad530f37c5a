"""Its command line: all parts, or those that are named."""

import pytest

from scripts.bench_consumers import options


@pytest.mark.parametrize(("arguments", "parts"), [([], "all"), (["read", "follow"], ["read", "follow"])])
def test_all_parts_or_those_that_are_named(arguments: list[str], parts: object) -> None:
    assert options(arguments).parts == parts


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options(["writing"])
    assert "invalid choice: 'writing'" in capsys.readouterr().err
