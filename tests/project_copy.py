"""Copies of the project with the changes that a page of the documents describes."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from utils.app.config import PROJECT_DIR

PACKAGES = ("utils", "producers", "consumers", "scripts", "tests")


def copy_project(folder: Path, page: str, packages: Iterable[str] = PACKAGES) -> Path:
    """Copy these packages to the folder, and add the files that begin with `# path` in code blocks of the page."""
    for package in packages:
        shutil.copytree(PROJECT_DIR / package, folder / package)  # includes compiled modules
    for pattern in ("requirements*.txt", "verify_emitters.py", "pyproject.toml"):
        for path in PROJECT_DIR.glob(pattern):
            shutil.copy(path, folder)
    (folder / ".env").touch()
    for name, code in re.findall(r"```python\n# (\S+)\n(.*?)```", page, re.DOTALL):
        assert not (folder / name).exists(), name
        (folder / name).write_text(f"# {name}\n{code}", encoding="utf-8")
    return folder


def apply_changes(folder: Path, page: str) -> None:
    """Apply the diffs of the page that begin with `--- path` to the copy."""
    for name, change in re.findall(r"```diff\n--- (\S+)\n(.*?)```", page, re.DOTALL):
        lines = change.splitlines(keepends=True)
        replace_once(folder / name, *("".join(line[1:] for line in lines if line[0] in (" ", each)) for each in "-+"))


def replace_once(path: Path, before: str, after: str) -> None:
    """Replace a text that the file must contain exactly once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{path.name} does not contain once: {before}"
    path.write_text(text.replace(before, after), encoding="utf-8")
