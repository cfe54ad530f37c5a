"""Ctrl+C before a command has begun. Imports next to nothing, because importing is what takes the time."""

import os
import signal

UNFINISHED = 3


def end_quietly() -> None:
    """What Ctrl+C does while a command is still being imported: end it, in one line."""
    signal.signal(signal.SIGINT, _end)


def begin() -> None:
    """From here on Ctrl+C raises KeyboardInterrupt, as usual, until `signals.stop_on_signals`."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_: object) -> None:
    os.write(2, b"interrupted before it began\n")
    os._exit(UNFINISHED)
