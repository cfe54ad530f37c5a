"""Is this machine set up well? Each line says what was looked at, how it is, and what to do about it."""

import difflib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cyclopts

from utils.app import cli, config
from utils.app.config import DEFAULTS, PROJECT_DIR, Interval, Settings
from utils.app.errors import ToolkitError
from utils.checks import doctor_sinks
from utils.checks.doctor_sinks import INSTALL, Sign
from utils.records.codec import instant_text

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

LITTLE_SPACE = 1 << 30
TOO_LITTLE_SPACE = 100 << 20
_NETWORK = ("nfs", "cifs", "smb", "9p", "sshfs", "drvfs", "afp", "webdav", "davfs")


def examine(settings: Settings, backend: Callable[[], str]) -> Iterator[Sign]:
    """Look at everything but the environment. `backend` says which matplotlib backend draws, and why."""
    looks: tuple[tuple[str, Callable[[], Iterable[Sign]]], ...] = (
        ("python", _python),
        ("packages", _packages),
        ("data folder", lambda: _data_folder(settings.data_path)),
        ("journal", lambda: doctor_sinks.journals(settings)),
        ("sinks", lambda: doctor_sinks.sinks(settings)),
        ("dashboard", lambda: [Sign("dashboard", "ok", backend())]),
        ("clock", lambda: _clock(settings.data_path)),
    )
    for topic, look in looks:
        try:
            yield from look()
        except ToolkitError as error:
            yield Sign(topic, "problem", " ".join(str(error).split()))
        except ImportError as error:
            yield Sign(topic, "problem", f"cannot be looked at: {error}", INSTALL)
        except OSError as error:
            yield Sign(topic, "problem", f"cannot be looked at: {error}")


def environment() -> list[Sign]:
    """Look at `.env` and the variables, and take those away that no command could use: the rest can be used."""
    lines = []
    try:
        path, values = cli.read_env_file()
        cli.load_env_file()
        lines.append(Sign(".env", "ok", str(path) if path else "there is none: defaults and the environment count"))
    except ToolkitError as error:
        values = {}
        lines.append(Sign(".env", "problem", str(error), "until then nothing in it counts"))
    known = config.variables()
    for name in sorted(values.keys() - known.keys()):
        meant = difflib.get_close_matches(name, known, 1)
        remedy = f"did you mean {meant[0]}?" if meant else ".env.example lists what there is"
        lines.append(Sign(".env", "note", f"{name} is no setting of this toolkit", remedy))
    app = cyclopts.App(result_action="return_value")

    @app.default
    def parse(*, settings: Settings = DEFAULTS, interval: Interval = 5.0) -> None:
        """Only parsed, never called."""

    while True:
        try:
            app.parse_args([], exit_on_error=False, print_error=False)
            break
        except cyclopts.CycloptsError as error:
            argument = getattr(error, "argument", None)
            names = [name for name in (argument.parameter.env_var if argument else ()) or () if name in os.environ]
            if not names:
                raise ToolkitError(" ".join(str(error).split())) from error
            text = f"{names[0]}={os.environ.pop(names[0])}: {' '.join(str(error).split())}"
            lines.append(Sign(".env", "problem", text, "change or remove it in .env or the environment"))
    try:
        config.kafka_security()
    except ToolkitError as error:
        lines.append(Sign(".env", "problem", str(error)))
    return lines


def _python() -> Iterator[Sign]:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}: {sys.executable}"
    yield Sign("python", "ok", text)
    if sys.prefix == sys.base_prefix:
        yield Sign("python", "note", "no virtual environment is active", "python scripts/start.py makes one")


def _packages() -> Iterator[Sign]:
    found = []
    for name, version, wanted in _listed("requirements.txt"):
        if not version:
            yield Sign("packages", "problem", f"{name} is missing", INSTALL)
        elif version not in wanted:
            yield Sign("packages", "problem", f"{name} {version} is not {wanted}", f"{INSTALL} --upgrade")
        if version:
            found.append(f"{name} {version}")
    yield Sign("packages", "ok", ", ".join(found))
    missing = [
        name for name, version, wanted in _listed("requirements-dev.txt") if not version or version not in wanted
    ]
    text = f"{', '.join(missing)} not there or too old: scripts/run_tests.py installs them" if missing else "all there"
    yield Sign("packages", "ok", f"only for tests and checks: {text}")


def _listed(name: str) -> Iterator[tuple[str, str, "SpecifierSet"]]:
    """Name, installed version ("" if none) and wanted versions of each package that a list of the project names."""
    from packaging.requirements import Requirement

    for line in (PROJECT_DIR / name).read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text and not text.startswith("-r"):
            required = Requirement(text)
            try:
                yield required.name, importlib.metadata.version(required.name), required.specifier
            except importlib.metadata.PackageNotFoundError:
                yield required.name, "", required.specifier


def _data_folder(folder: Path) -> Iterator[Sign]:
    import psutil

    existing = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        remedy = "change its permissions, or name another folder with --data-dir or BASE_DATA_DIR"
        yield Sign("data folder", "problem", f"{folder} cannot be written: {error.strerror}", remedy)
        return
    free = shutil.disk_usage(existing).free
    text = f"{folder}, {free / 2**30:,.1f} GiB free" + ("" if folder.exists() else "; will be made")
    if free < LITTLE_SPACE:
        state: Literal["note", "problem"] = "problem" if free < TOO_LITTLE_SPACE else "note"
        yield Sign("data folder", state, text, "free some space, or move it with BASE_DATA_DIR")
    else:
        yield Sign("data folder", "ok", text)
    mounts = [disk for disk in psutil.disk_partitions(all=True) if existing.resolve().is_relative_to(disk.mountpoint)]
    if mounts:
        disk = max(mounts, key=lambda each: len(each.mountpoint))
        if "remote" in disk.opts or any(kind in disk.fstype.lower() for kind in _NETWORK):
            text = (
                f"{disk.mountpoint} is a network or shared drive ({disk.fstype or 'remote'}): locks and fsync may lie"
            )
            yield Sign("data folder", "problem", text, "put the data on a local disk with BASE_DATA_DIR")


def _clock(folder: Path) -> Iterator[Sign]:
    now_s = time.time()
    newest_s = max((path.stat().st_mtime for path in folder.glob("*") if path.is_file()), default=0.0)
    if newest_s > now_s + 60:
        text = f"{instant_text(int(now_s * 1e6))}, but a data file was written at {instant_text(int(newest_s * 1e6))}"
        yield Sign("clock", "problem", text, "set the clock: records would get times in the past")
    else:
        yield Sign("clock", "ok", instant_text(int(now_s * 1e6)))
