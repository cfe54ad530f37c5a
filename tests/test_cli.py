"""Behaviour of every command line: one line at any end, exit codes, variables, threads that are left running."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
from cyclopts import Parameter

from tests.helpers import run_here, run_python, start_python
from tests.test_docs import ENTRY_POINTS, run_help
from utils.app import cli, startup
from utils.app.config import DEFAULTS, PROJECT_DIR, VERSION, Reads, Settings, kafka_security
from utils.app.env_file import read_env_file
from utils.app.errors import PositionMoved, Rejected, SinkReplaced, ToolkitError, Unavailable
from utils.app.options import Interval
from utils.sinks import Sinks


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with an empty .env; the log goes elsewhere."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / ".env").touch()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BASE_DATA_DIR", str(tmp_path / "data"))
    return folder


def run_raising(error: BaseException) -> int:
    def main(settings: Settings = DEFAULTS) -> int:
        raise error

    return cli.run(main, name="producers.test", arguments=[])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ToolkitError("what\nwhere"), 2),
        (Unavailable("what where"), 3),
        (SinkReplaced("what where"), 3),
        (PositionMoved("what where"), 3),
        (Rejected(7, "what where"), 2),
        (KeyboardInterrupt(), 3),
        (ZeroDivisionError("what where"), 3),
    ],
)
def test_every_end_of_a_command_is_one_line(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_raising(error) == code
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert "Traceback" not in shown.err and "before it began" not in shown.err


def test_the_code_of_the_command_is_the_exit_code() -> None:
    assert cli.run(lambda: 1, name="producers.test", arguments=[]) == 1
    assert cli.run(lambda: 0, name="producers.test", arguments=[]) == 0


def shown_interval(interval: Interval = 5.0, settings: Settings = DEFAULTS) -> int:
    print(interval, settings.topic)
    return 0


def test_options_beat_the_environment_which_beats_the_file_which_beats_defaults(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*arguments: str) -> str:
        assert cli.run(shown_interval, name="producers.test", arguments=list(arguments)) == 0
        return capsys.readouterr().out.strip()

    assert shown() == "5.0 buzzline_db"
    (empty_folder / ".env").write_text("MESSAGE_INTERVAL_SECONDS=4\nBUZZ_TOPIC=from_file\n")
    assert shown() == "4.0 from_file"
    monkeypatch.setenv("MESSAGE_INTERVAL_SECONDS", "3")
    assert shown() == "3.0 from_file"
    assert shown("--interval", "2", "--topic", "chosen") == "2.0 chosen"


def test_a_variable_without_a_value_counts_as_not_set(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (empty_folder / ".env").write_text("BUZZ_TOPIC=from_file\nLOG_LEVEL=\n")
    for variable in ("BUZZ_TOPIC", "LOG_LEVEL", "MESSAGE_INTERVAL_SECONDS"):
        monkeypatch.setenv(variable, "")
    assert cli.run(shown_interval, name="producers.test", arguments=[]) == 0
    assert capsys.readouterr().out.strip() == "5.0 from_file"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings expand `~` themselves: no shell does it in `.env`, and a folder named `~` invites `rm -r ~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert Settings(data_dir=Path("~/data")).data_path == tmp_path / "data"
    assert Settings(sqlite_file=Path("~/own.sqlite")).sqlite_path == tmp_path / "own.sqlite"
    assert Settings(data_dir=Path("~nobody-at-all/data")).data_path == PROJECT_DIR / "~nobody-at-all" / "data"
    assert kafka_security({"KAFKA_CA_FILE": "~/ca.pem"}) == {"ssl.ca.location": str(tmp_path / "ca.pem")}


@pytest.mark.parametrize("protocol", ["SASL_SSL", "sasl_ssl"])
def test_a_protocol_with_users_has_a_mechanism_in_any_case(protocol: str) -> None:
    found = {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"}
    assert kafka_security({"KAFKA_SECURITY_PROTOCOL": protocol}) == found
    named = {"KAFKA_SECURITY_PROTOCOL": protocol, "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512"}
    assert kafka_security(named) == found | {"sasl.mechanism": "SCRAM-SHA-512"}


def test_the_help_names_option_default_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    def main(
        *, size: Annotated[int, Parameter(name="--size", env_var="SIZE", help="How large.")] = 7,
        settings: Settings = DEFAULTS,
    ) -> int:  # fmt: skip
        """Does something."""
        raise AssertionError("--help runs nothing")

    assert cli.run(main, name="producers.test", arguments=["--help"]) == 0
    shown = capsys.readouterr().out
    for words in ("python -m producers.test", "Does something.", "--size", "7", "SIZE", "--data-dir", "BASE_DATA_DIR"):
        assert words in shown


STUCK = """
import sys, threading, time
from utils.app import cli
def main() -> int:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    print("last words")
    return 3
sys.exit(cli.run(main, name="producers.test"))
"""


def test_a_stuck_thread_does_not_delay_the_exit(settings: Settings) -> None:
    done = run_python(code=STUCK, settings=settings)
    assert (done.returncode, done.stdout) == (3, "last words\n")


SIGNALS = """
import sys
from utils.app import cli, signals
def main() -> int:
    stop = signals.stop_on_signals()
    print("ready", flush=True)
    stop.wait()
    print("stopping", flush=True)
    while True:
        sys.stdin.read(1)
sys.exit(cli.run(main, name="producers.test"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_the_first_signal_asks_the_second_ends(settings: Settings, number: signal.Signals) -> None:
    with start_python(code=SIGNALS, settings=settings) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (3, "")


def test_json_for_programs_keeps_texts_and_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report = {"by": {"right to left \u200f": 1, "\x9b31m": 2, "two\nlines": 3}}
    cli.print_json(report)
    printed = capsys.readouterr().out
    assert json.loads(printed) == report
    assert printed.replace("\n", "").isprintable()


@pytest.mark.full
def test_a_closed_pipe_changes_no_exit_code(settings: Settings) -> None:
    """Lines, a table and the log go to stdout or stderr."""
    code = """
import sys
from utils.app import cli
def main() -> int:
    sys.stdin.read()
    cli.print_lines("one", "two")
    cli.print_table(("what",), [("table",)])
    cli.print_lines("three", to=sys.stderr)
    return 3
sys.exit(cli.run(main, name="producers.test"))
"""
    for code_text, expected in ((code, 3), (code.replace("return 3", "raise cli.ToolkitError('x')"), 2)):
        process = start_python(code=code_text, settings=settings)
        assert process.stdout and process.stderr and process.stdin
        process.stdout.close()
        process.stderr.close()
        process.stdin.close()
        assert process.wait(30) == expected


class Left(io.RawIOBase):
    """A pipe of Windows whose reader has left."""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)


def test_a_closed_pipe_changes_no_exit_code_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> int:
        print("x" * 1_000_000)  # larger than the buffer of any Python
        return 1

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(Left())))
        assert cli.run(main, name="producers.test", arguments=[]) == 0
    assert run_raising(OSError(errno.EINVAL, "Invalid argument")) == 3


@pytest.mark.full
def test_a_closed_pipe_of_the_help_changes_no_exit_code(settings: Settings) -> None:
    process = start_python("producers.ragini_producer", "--help", settings=settings)
    assert process.stdout and process.stderr and process.stdin
    process.stdout.close()
    assert (process.wait(30), process.stderr.read()) == (0, "")
    process.stderr.close()
    process.stdin.close()


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="closes POSIX file descriptors")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_without_stdout_or_stderr_a_command_does_its_work(settings: Settings, closed: str) -> None:
    settings.data_path.mkdir(parents=True)
    command = f"exec '{sys.executable}' -m producers.ragini_producer --interval 0 --count 10 --sinks file {closed}"
    assert subprocess.run(command, shell=True, cwd=PROJECT_DIR, check=False).returncode == 0
    assert settings.live_path.read_bytes().count(b"\n") == 10


@pytest.mark.full
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_under_the_output_changes_no_exit_code(settings: Settings) -> None:
    settings.data_path.mkdir(parents=True)
    command = [
        sys.executable,
        *["-m", "producers.ragini_producer", "--interval", "0", "--count", "100", "--sinks", "file"],
    ]
    environment = {**os.environ, "BASE_DATA_DIR": str(settings.data_path)}
    with Path("/dev/full").open("w") as full:
        for options, code in (([], 0), (["--interval", "x"], 2)):
            done = subprocess.run(
                [*command, *options], cwd=PROJECT_DIR, env=environment, stdout=full, stderr=full, check=False
            )
            assert done.returncode == code


def test_a_password_in_a_broken_env_file_is_not_shown(settings: Settings) -> None:
    settings.data_path.mkdir(parents=True)
    (settings.data_path.parent / ".env").write_text("LOG_LEVEL=DEBUG\nKAFKA_PASSWORD hunter2\n")
    done = run_here("producers.ragini_producer", "--count", "1", settings=settings)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "line 2: KAFKA_PASSWORD is not NAME=VALUE" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


WRITES = """
import sys
from utils.app import cli
def main() -> int:
    for number in range(100_000):
        print("line", number)
    return 0
sys.exit(cli.run(main, name="producers.test"))
"""


def test_a_closed_pipe_is_no_error(settings: Settings) -> None:
    process = start_python(code=WRITES, settings=settings)
    assert process.stdout and process.stderr and process.stdin
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(30) == 0
    process.stderr.close()
    process.stdin.close()


def test_a_command_takes_and_shows_only_the_settings_that_it_reads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    got: list[Settings] = []

    def main(*, settings: Annotated[Settings, Reads("live_file")] = DEFAULTS) -> int:
        got.append(settings)
        return 0

    monkeypatch.setenv("BASE_DATA_DIR", str(tmp_path))
    assert cli.run(main, name="producers.test", arguments=["--live-file", "x.jsonl"]) == 0
    assert [vars(each) for each in got] == [vars(Settings(data_dir=tmp_path, live_file=Path("x.jsonl")))]
    assert cli.run(main, name="producers.test", arguments=["--topic", "x"]) == 2
    assert "--topic" in capsys.readouterr().err
    assert cli.run(main, name="producers.test", arguments=["--help"]) == 0
    shown = capsys.readouterr().out
    assert "--live-file" in shown
    assert "--topic" not in shown


def test_a_list_of_choices_takes_no_other_word(capsys: pytest.CaptureFixture[str]) -> None:
    got: list[tuple[str, tuple[str, ...]]] = []

    def main(place: str, /, *, sinks: Sinks = (), settings: Settings = DEFAULTS) -> int:
        got.append((place, sinks))
        return 0

    assert cli.run(main, name="producers.test", arguments=["a.csv", "--sinks", "file", "sqlite"]) == 0
    assert got == [("a.csv", ("file", "sqlite"))]
    assert cli.run(main, name="producers.test", arguments=["--sinks", "file", "a.csv"]) == 2
    assert "PLACE requires an argument: give it first, before the options" in capsys.readouterr().err


@pytest.mark.parametrize(("columns", "widest"), [(None, cli.PIPE_COLUMNS), ("70", 70)])
def test_a_table_in_a_pipe_is_wide_or_has_the_width_of_columns(
    columns: str | None, widest: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    cli.print_table(("name", "text"), [("a", "word " * 100)])
    assert widest - 5 <= max(map(len, capsys.readouterr().out.splitlines())) <= widest


def test_an_env_file_is_expanded_as_its_library_does(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HERE", str(tmp_path))
    (empty_folder / ".env").write_text("BASE_DATA_DIR=${HERE}/x\n")
    assert read_env_file(PROJECT_DIR)[1] == {"BASE_DATA_DIR": f"{tmp_path}/x"}


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot delete a current folder")
def test_a_deleted_current_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert cli.run(lambda: 0, name="producers.test", arguments=[]) == 2
    assert capsys.readouterr().err == "producers.test: the current folder was deleted: change to another one\n"


def test_an_error_before_the_log_is_set_up_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_env_file() -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(cli, "load_env_file", load_env_file)
    assert cli.run(lambda: 0, name="producers.test", arguments=[]) == 3
    assert capsys.readouterr().err == "producers.test: unexpected ZeroDivisionError: odd\n"


def test_a_function_may_exit_by_itself() -> None:
    with pytest.raises(SystemExit, match="4"):
        cli.run(lambda: sys.exit(4), name="producers.test", arguments=[])


def test_a_missing_package_is_named_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise ModuleNotFoundError("No module named 'rich'", name="rich")

    assert cli.run(main, name="producers.test", arguments=[]) == 2
    assert capsys.readouterr().err == (f"producers.test: No module named 'rich'; do this first: {startup.remedy()}\n")


def test_a_folder_that_may_not_be_looked_into_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "data/journal")

    assert cli.run(main, name="producers.test", arguments=[]) == 2
    assert capsys.readouterr().err == "producers.test: data/journal: Permission denied\n"


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_command_knows_its_version(name: str, settings: Settings) -> None:
    assert run_help(name, option="--version") == f"streaming-toolkit {VERSION}\n"
    assert not settings.data_path.exists()


def test_there_is_one_version() -> None:
    assert f'version = "{VERSION}"' in (PROJECT_DIR / "pyproject.toml").read_text("utf-8")
    heads = [line for line in (PROJECT_DIR / "CHANGELOG.md").read_text("utf-8").splitlines() if line.startswith("## [")]
    assert heads[0].startswith(f"## [{VERSION}]")
