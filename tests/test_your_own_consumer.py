"""docs/your-own-consumer.md, followed in a copy of the project."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project_copy import copy_project
from utils.app.config import PROJECT_DIR

pytestmark = pytest.mark.full

PAGE = (PROJECT_DIR / "docs" / "your-own-consumer.md").read_text(encoding="utf-8")


def run(project: Path, *arguments: str) -> str:
    """Run Python with these arguments in the copy; return what it printed."""
    own = {**os.environ, "BASE_DATA_DIR": "data", "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_works_in_order(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project", PAGE, ("utils", "producers", "consumers"))
    produce, consume = re.findall(r"^python -m (.*)$", PAGE, re.MULTILINE)
    (ask,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if not block.startswith("#"))
    run(project, "-m", *produce.replace("0.1", "0").split(), "--seed", "7")
    run(project, "-m", *consume.split())
    counts = run(project, "-c", ask)
    assert re.fullmatch(r"\[\('roof', \d+\)(, \('\w+', \d+\))*\]\n", counts)
    run(project, "-m", *consume.split())
    assert run(project, "-c", ask) == counts
    assert "table hot" in run(project, "-m", consume.split()[0], "--help")
    chart = (project / "chart.py").read_text(encoding="utf-8")
    drawn = "figure.canvas.draw(); draw(0); print(len(dots.get_xdata()))"
    assert int(run(project, "-c", chart.replace("plt.show()", drawn))) > 290
