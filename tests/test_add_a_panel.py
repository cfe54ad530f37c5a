"""docs/add-a-panel.md, followed in a copy: one class and one list entry suffice."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.project_copy import PACKAGES, apply_changes, copy_project
from utils.app.config import PROJECT_DIR

pytestmark = pytest.mark.full

PAGE = (PROJECT_DIR / "docs" / "add-a-panel.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project that has what the page adds."""
    folder = copy_project(tmp_path_factory.mktemp("copy") / "project", PAGE, (*PACKAGES, "docs"))
    apply_changes(folder, PAGE)
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


def test_the_panel_of_the_page_shows_its_values(project: Path) -> None:
    assert run(project, "-c", DRAWN) == "drawn\n"


def test_the_tests_of_the_dashboard_pass_with_it(project: Path) -> None:
    """One scene is drawn wide and in a column."""
    chosen = "scene_is_tidy and sensors and (standard or column)"
    tests = "tests/consumers/test_dashboard_drawing.py"
    assert "2 passed" in run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, tests)
