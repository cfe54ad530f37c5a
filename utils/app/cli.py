"""The frame of every command: .env, command line, log, one-line errors, exit codes, printing and progress.

Exit codes: 0 done; 1 a check failed; 2 usage, configuration, journal in use; 3 unfinished.
"""

import atexit
import errno
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TextIO

import cyclopts
from cyclopts import App, Group, Parameter
from loguru import logger

from utils.app import log, startup
from utils.app.config import DEFAULTS, VERSION, load_env_file, narrow_settings, passwords
from utils.app.errors import ToolkitError
from utils.app.startup import UNFINISHED

CHECK_FAILED = 1
PROGRESS_EVERY_S = 5.0
PIPE_COLUMNS = 160


def run(main: Callable[..., int], *others: Callable[..., int], name: str, arguments: list[str] | None = None) -> int:
    """Parse the command line, call `main` or the named subcommand of `others`, and return the exit code.

    The typed signature of each function defines its options. Its docstring is the help text.
    """
    _prepare_output()
    app = App(
        name=f"python -m {name}",
        help=main.__doc__,
        version=f"streaming-toolkit {VERSION}",
        default_parameter=Parameter(negative=()),  # no options such as --no-once and --empty-sinks
        result_action="return_value",
    )
    app["--help"].group = app["--version"].group = Group("Help", sort_key=3)  # after all others
    app.default(narrow_settings(main))
    for command in others:
        app.command(narrow_settings(command))
    earlier_threads = set(threading.enumerate())
    code, has_log = 0, False
    try:
        startup.restore_interrupt()
        logger.remove()  # loguru's default handler shows the values of variables in tracebacks, passwords too
        load_env_file()
        tokens = sys.argv[1:] if arguments is None else arguments
        command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
        log.set_up(bound.arguments.get("settings", DEFAULTS), name.rpartition(".")[2], secrets=passwords())
        has_log = True
        code = command(*bound.args, **bound.kwargs) or 0
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):  # which rich turns into SystemExit
            raise
        _discard_output(sys.stdout)
    except BaseException as error:  # noqa: BLE001 (each becomes one line and an exit code)
        code = _report_error(error, name, has_log)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the interpreter would flush again at exit, fail, and exit with code 120
            _discard_output(stream)
    daemons = [thread for thread in threading.enumerate() if thread.daemon and thread not in earlier_threads]
    if daemons:
        atexit.register(_exit_at_once_if_alive, daemons, code)
    return code


def _prepare_output() -> None:
    """Let stdout and stderr accept any text and, on Windows, let the console interpret escape sequences."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent process, or missing under pythonw
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open until the process ends)
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a Windows code page has few characters
    if sys.platform == "win32":
        import colorama  # on Windows loguru depends on it

        colorama.just_fix_windows_console()


def _exit_at_once_if_alive(threads: list[threading.Thread], code: int) -> None:
    """End the process here if a thread still runs: the interpreter's end would kill it, and C++ code then aborts."""
    if any(thread.is_alive() for thread in threads):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _report_error(error: BaseException, name: str, has_log: bool) -> int:
    """Print the error that ended a command as one line on stderr; return the exit code. Tracebacks go to the log."""
    line, code = " ".join(str(error).split()), 2
    match error:
        case cyclopts.UnusedCliTokensError():
            line = f"unknown argument {' '.join(error.unused_tokens or [])!r} (python -m {name} --help)"
        case cyclopts.MissingArgumentError() if "--" not in line:
            line = f"{line.rstrip('.')}: give it first, before the options (python -m {name} --help)"
        case cyclopts.CycloptsError():
            line = f"{line} (python -m {name} --help)"
        case ModuleNotFoundError():
            line = f"{line}; do this first: {startup.remedy()}"
        case ToolkitError():
            logger.opt(exception=error).debug("ended by {!r}", error)
            code = error.exit_code
        case OSError() if _is_broken_pipe(error):
            _discard_output(sys.stdout)
            return 0
        case PermissionError() if error.filename:  # a folder that cannot be searched; callers handle their files
            line = f"{error.filename}: {error.strerror}"
        case KeyboardInterrupt():
            line, code = "interrupted" if has_log else "interrupted before it began", UNFINISHED
        case _:
            line, code = f"unexpected {type(error).__name__}: {line}", UNFINISHED
            if has_log:
                logger.opt(exception=error).error("{} (traceback in logs/)", line)
                return code
    print_lines(f"{name}: {log.masked(line, passwords())}", to=sys.stderr)
    return code


def _is_broken_pipe(error: OSError) -> bool:
    """Return whether stdout has no reader any more. On Windows the error is EINVAL, so a second write tests it."""
    if error.errno != errno.EINVAL:
        return isinstance(error, BrokenPipeError)
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def _discard_output(stream: TextIO) -> None:
    """Send further output of a stream without a reader to the null device, so that its flush at exit succeeds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 frame`, `2,000 frames`, `2 anomalies`, `3 status`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun.removesuffix('s')}s"
    return f"{number:,} {noun if number == 1 else plural}"


def print_lines(*lines: str, to: TextIO | None = None) -> None:
    """Print lines on stdout or on `to`. Control characters, which could steer the terminal, become spaces."""
    stream = to or sys.stdout
    try:
        print("".join(f"{log.plain(line)}\n" for line in lines), end="", file=stream, flush=True)
    except OSError:  # a closed pipe or a full disk must not end the command
        _discard_output(stream)


def print_json(report: object) -> None:
    """Print a report as indented JSON."""
    import msgspec

    print_lines(*map(log.escaped, msgspec.json.format(msgspec.json.encode(report)).decode().split("\n")))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table as wide as the variable COLUMNS, else as the terminal, else PIPE_COLUMNS."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(log.plain(cell)) for cell in row))
    console = Console(width=shutil.get_terminal_size((PIPE_COLUMNS, 0)).columns, color_system=None)
    with console.capture() as text:
        console.print(table)
    print_lines(*text.get().rstrip("\n").split("\n"))


@contextmanager
def progress(total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Show the progress of long work: as a bar on a terminal, else as a log line every PROGRESS_EVERY_S.

    Yields a callback that takes the number of `unit` done since its last call. `total` is None if it is not known.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda more: bar.advance(task, more)
        return
    done, last_log_s = 0, time.monotonic()

    def advance(more: int) -> None:
        nonlocal done, last_log_s
        done += more
        if time.monotonic() - last_log_s >= PROGRESS_EVERY_S:
            last_log_s = time.monotonic()
            logger.info("{} {}", f"{done:,} of {total:,}" if total else f"{done:,}", unit)

    yield advance
