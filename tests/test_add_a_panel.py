"""docs/add-a-panel.md, followed to the letter in a copy: one class, one list entry, and nothing else fails."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from utils.app.config import PROJECT_DIR

pytestmark = pytest.mark.full

PAGE = (PROJECT_DIR / "docs" / "add-a-panel.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project that has what the page adds."""
    folder = tmp_path_factory.mktemp("copy") / "project"
    for each in ("utils", "producers", "consumers", "scripts", "tests", "docs"):
        shutil.copytree(PROJECT_DIR / each, folder / each, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "verify_emitters.py", "requirements.txt"):
        shutil.copy(PROJECT_DIR / name, folder)
    (folder / ".env").touch()
    for name, code in re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL):
        (folder / name).write_text(code, encoding="utf-8")
    for name, change in re.findall(r"```diff\n--- (\S+)\n(.*?)```", PAGE, re.DOTALL):
        path, lines = folder / name, change.splitlines(keepends=True)
        text, old = path.read_text(encoding="utf-8"), "".join(line[1:] for line in lines if line[0] in " -")
        assert text.count(old) == 1, f"{name} does not contain once: {old}"
        path.write_text(text.replace(old, "".join(line[1:] for line in lines if line[0] in " +")), encoding="utf-8")
    return folder


def run(project: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


DRAWN = """
from consumers.dashboard.figure import Dashboard
from consumers.dashboard.latest import LatestPanel
from scripts.make_pictures import examples, scenes
for scene in (scenes()[2], examples()[0]):
    drawing = Dashboard("dark")
    svg = drawing.svg(scene.snapshot)
    (panel,) = (each for each in drawing.panels if isinstance(each, LatestPanel))
    assert panel.heading.get_text() in svg
    shown = list(panel.dots.get_xdata())
    assert shown == [series.values[-1] for series in scene.snapshot.series], shown
    assert len(panel.hints) == len(shown)
print("drawn")
"""


def test_the_panel_of_the_page_shows_what_it_promises(project: Path) -> None:
    assert run(project, "-c", DRAWN) == "drawn\n"


def test_the_tests_of_the_dashboard_pass_with_it(project: Path) -> None:
    """A scene wide and in a column; one more panel makes none of them fail."""
    chosen = "scene_is_tidy and sensors and (standard or column)"
    tests = "tests/consumers/test_dashboard_drawing.py"
    assert "2 passed" in run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, tests)
