"""Clean stop of a running command by Ctrl+C or SIGTERM, and immediate end by the second signal."""

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
    """An event that a signal handler can set.

    `threading.Event` would deadlock if the handler interrupts the thread that holds the event's lock, and its `wait`
    would miss a signal that arrives just before it. Here `wait` is a `select` on a socket to which Python writes at
    each signal (`signal.set_wakeup_fd`).
    """

    def __init__(self) -> None:
        super().__init__()
        self._waited, self.wakeup = socket.socketpair()
        self._waited.setblocking(False)
        self.wakeup.setblocking(False)
        self._stopped = False

    def set(self) -> None:
        self._stopped = True
        with suppress(BlockingIOError):  # the buffer is full, so no `wait` blocks
            self.wakeup.send(b"\0")

    def is_set(self) -> bool:
        return self._stopped

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set, for at most `timeout` seconds, and return whether it is."""
        limit_s = None if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX)
        return self._stopped or bool(select.select([self._waited], [], [], limit_s)[0])


def stop_on_signals() -> Stop:
    """Return an event that the first Ctrl+C or SIGTERM sets. From then on a signal ends the process at once."""
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
            # At exit the interpreter restores the default handler: a late signal would then change the exit code.
            atexit.register(signal.signal, number, signal.SIG_IGN)
    return stop
