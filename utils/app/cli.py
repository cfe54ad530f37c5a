"""What every command line shares: .env, parsing, signals, one-line errors, exit codes, progress.

Exit codes: 0 done; 1 a check failed; 2 usage, configuration, journal in use; 3 unfinished.
"""

import atexit
import errno
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import TextIO

import cyclopts
from cyclopts import App, Parameter
from dotenv.main import resolve_variables
from dotenv.parser import parse_stream
from loguru import logger

from utils.app import log, startup
from utils.app.config import DEFAULTS, PROJECT_DIR, TOKEN_VARIABLE, VERSION, narrowed, store_passwords, variables
from utils.app.errors import ToolkitError
from utils.app.startup import UNFINISHED

CHECK_FAILED = 1
PROGRESS_EVERY_S = 5.0
PIPE_COLUMNS = 160


def run(main: Callable[..., int], *others: Callable[..., int], name: str, arguments: list[str] | None = None) -> int:
    """Parse the command line, call `main` (or the one of `others` that is named first) and return its exit code.

    Each function's typed signature is its command line and its docstring the help text.
    """
    _prepare_output()
    app = App(
        name=f"python -m {name}",
        help=main.__doc__,
        version=f"streaming-toolkit {VERSION}",
        default_parameter=Parameter(negative=()),  # no --no-once, no --empty-sinks
        result_action="return_value",
    )
    app.default(narrowed(main))
    for command in others:
        app.command(narrowed(command))
    before = set(threading.enumerate())
    code, ready = 0, False
    try:
        startup.begin()
        logger.remove()  # the library's own way of logging shows values, passwords among them
        load_env_file()
        tokens = sys.argv[1:] if arguments is None else arguments
        command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
        log.set_up(bound.arguments.get("settings", DEFAULTS), name.rpartition(".")[2], secrets=_secrets())
        ready = True
        code = command(*bound.args, **bound.kwargs) or 0
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):  # rich's answer to it
            raise
        _nobody_reads(sys.stdout)
    except BaseException as error:  # noqa: BLE001 (each becomes one line and an exit code)
        code = _ended_by(error, name, ready)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # at exit it would turn the code into its own
            _nobody_reads(stream)
    stuck = [thread for thread in threading.enumerate() if thread.daemon and thread not in before]
    if stuck:
        atexit.register(_leave_behind, stuck, code)
    return code


def _prepare_output() -> None:
    """Make stdout and stderr take any text and, on Windows, the console follow escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us, or pythonw
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (as long as we live)
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a Windows code page has few letters
    if sys.platform == "win32":
        import colorama  # loguru brings it there

        colorama.just_fix_windows_console()


def _leave_behind(threads: list[threading.Thread], code: int) -> None:
    """End at once if a thread is still in some library: killed there by the interpreter's end, C++ code aborts."""
    if any(thread.is_alive() for thread in threads):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ended_by(error: BaseException, name: str, ready: bool) -> int:
    """Turn whatever ended a command into one line on stderr and an exit code; tracebacks go to the log file."""
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
        case OSError() if _reader_left(error):
            _nobody_reads(sys.stdout)
            return 0
        case KeyboardInterrupt():
            line, code = "interrupted" if ready else "interrupted before it began", UNFINISHED
        case _:
            line, code = f"unexpected {type(error).__name__}: {line}", UNFINISHED
            if ready:
                logger.opt(exception=error).error("{} (traceback in logs/)", line)
                return code
    print_lines(f"{name}: {log.masked(line, _secrets())}", to=sys.stderr)
    return code


def _secrets() -> tuple[str, ...]:
    return (*(os.environ.get(name, "") for name in ("KAFKA_PASSWORD", TOKEN_VARIABLE)), *store_passwords())


def _reader_left(error: OSError) -> bool:
    """Whether what failed was printing to someone who has gone; Windows calls that EINVAL, so it is tried again."""
    if isinstance(error, BrokenPipeError) or error.errno != errno.EINVAL:
        return isinstance(error, BrokenPipeError)
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def _nobody_reads(stream: TextIO) -> None:
    """The reader of our output has gone; keep the interpreter from complaining at exit too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def counted(number: int, noun: str) -> str:
    """`1 frame`, `2,000 frames`, `2 anomalies`, `3 status`."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun.removesuffix('s')}s"
    return f"{number:,} {noun if number == 1 else many}"


def print_lines(*lines: str, to: TextIO | None = None) -> None:
    """Print lines, on stdout unless `to` is another; what others wrote in them cannot steer the terminal."""
    stream = to or sys.stdout
    try:
        print("".join(f"{log.plain(line)}\n" for line in lines), end="", file=stream, flush=True)
    except OSError:  # a reader that has left or a full disk changes nothing else
        _nobody_reads(stream)


def print_json(report: object) -> None:
    """Print a report for programs."""
    import msgspec

    print_lines(*map(log.escaped, msgspec.json.format(msgspec.json.encode(report)).decode().split("\n")))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table for people, as wide as the terminal, as COLUMNS says, or in a pipe as PIPE_COLUMNS."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(log.plain(cell)) for cell in row))
    known = sys.stdout.isatty() or os.environ.get("COLUMNS")
    console = Console(width=None if known else PIPE_COLUMNS, color_system=None)
    with console.capture() as text:
        console.print(table)
    print_lines(*text.get().rstrip("\n").split("\n"))


def read_env_file() -> tuple[Path | None, dict[str, str]]:
    """Path and values of `.env` in the current folder, else the project's; None if there is none.

    Raises ToolkitError naming file and line if it cannot be read or parsed.
    """
    try:
        path = next((path for path in (Path.cwd() / ".env", PROJECT_DIR / ".env") if path.exists()), None)
        text = path.read_text(encoding="utf-8-sig") if path else ""
    except FileNotFoundError as error:
        raise ToolkitError("the current folder was deleted: change to another one") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text; save it as UTF-8"
        raise ToolkitError(f".env cannot be read: {reason}") from error
    bindings = list(parse_stream(StringIO(text)))
    for binding in bindings:
        if binding.error or (binding.key and binding.value is None) or "\0" in binding.original.string:
            whole = binding.original.string
            line = binding.original.line + whole[: len(whole) - len(whole.lstrip())].count("\n")
            # The line may contain a password, so only the name is shown.
            known = re.match(r"(export\s+)?[A-Za-z_]\w*", whole.strip())
            shown = known[0] if known else "what stands there"
            raise ToolkitError(f"{path} line {line}: {shown} is not NAME=VALUE on one line; correct or remove it")
    values = resolve_variables([(each.key, each.value) for each in bindings if each.key], override=False)
    return path, {name: value for name, value in values.items() if value}


def load_env_file() -> None:
    """Put the values of `.env` under the environment's own. Raises ToolkitError like `read_env_file`.

    Here too a variable without a value counts as not set.
    """
    for name in variables():
        if not os.environ.get(name, "set"):
            del os.environ[name]
    for name, value in read_env_file()[1].items():
        os.environ.setdefault(name, value)


@contextmanager
def progress(total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how far long finite work has come; the function it gives is called with how many `unit` more are done.

    A bar on a terminal, a log line every few seconds elsewhere. `total` None: nobody knows the end.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda more: bar.advance(task, more)
        return
    done, logged_s = 0, time.monotonic()

    def advance(more: int) -> None:
        nonlocal done, logged_s
        done += more
        if time.monotonic() - logged_s >= PROGRESS_EVERY_S:
            logged_s = time.monotonic()
            logger.info("{} {}", f"{done:,} of {total:,}" if total else f"{done:,}", unit)

    yield advance
