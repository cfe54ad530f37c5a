"""A producer that runs while a test damages its sinks."""

import threading
from collections.abc import Mapping

from tests.helpers import sequences_in, start_python
from utils.app.config import Settings


class Running:
    """A producer that runs until it is stopped, with the lines that it logs."""

    def __init__(
        self,
        *arguments: str,
        settings: Settings,
        drain_s: int | None = 60,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = settings
        drain = () if drain_s is None else ("--drain", str(drain_s))
        self.process = start_python(*arguments, *drain, settings=settings, environment=environment)
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.log.append(line)

    def stop(self) -> tuple[int, str]:
        """Ask it to stop; return its exit code and its output."""
        self.process.terminate()
        assert self.process.stdout
        out = self.process.stdout.read()
        self._reader.join()
        return self.process.wait(90), out

    def kill(self) -> None:
        """Kill it if it still runs."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()

    def lines(self, word: str) -> list[str]:
        return [line for line in self.log if word in line]

    def amount(self, sink: str) -> int:
        return sum(map(len, sequences_in(sink, self.settings).values()))
