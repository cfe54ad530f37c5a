"""Ctrl+C and SIGTERM while a command runs, and the second time."""

import atexit
import os
import select
import signal
import socket
import threading
from contextlib import suppress
from typing import Any

from utils.app.startup import UNFINISHED


class Stop(threading.Event):
    """An event that signal handlers may set.

    The standard one cannot serve: the handler may interrupt the very thread that holds its lock, and a
    signal that comes just before a wait begins would be slept through. A socket has neither fault:
    Python writes to it the moment a signal comes, and the wait is one `select`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ours, self.wakeup = socket.socketpair()
        self._ours.setblocking(False)
        self.wakeup.setblocking(False)
        self._stopped = False

    def set(self) -> None:
        self._stopped = True
        with suppress(BlockingIOError):  # it is full, so all are awake
            self.wakeup.send(b"\0")

    def is_set(self) -> bool:
        return self._stopped

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it was set within `timeout` seconds."""
        left_s = None if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX)
        return self._stopped or bool(select.select([self._ours], [], [], left_s)[0])


def stop_on_signals() -> Stop:
    """An event that the first Ctrl+C or SIGTERM sets; a second one ends the process at once."""
    stop = Stop()

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            os._exit(UNFINISHED)
        stop.set()

    signal.set_wakeup_fd(stop.wakeup.fileno(), warn_on_full_buffer=False)
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            number = getattr(signal, name)
            signal.signal(number, handle)
            # At exit the interpreter would restore the default, and a late signal turn the exit code into its own.
            atexit.register(signal.signal, number, signal.SIG_IGN)
    return stop
