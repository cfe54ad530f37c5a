"""The records that a sink rejected for good, one file per sink."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from loguru import logger

from utils.app.errors import Rejected, ToolkitError
from utils.clients.files import errors
from utils.emitters.file_emitter import FileEmitter
from utils.records.codec import encoder
from utils.records.external import identity_of
from utils.records.record import Batch

MAX_REJECTED = 10  # one after another, with nothing stored between: the table is the fault


class DeadLetters:
    """The records that one sink rejected for good, in a file that `replay_producer` can read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sequences: set[int] = set()
        self.in_a_row = 0

    def load(self, runs: Mapping[str, int]) -> None:
        """Read the file again, once what a killed process left of it is durable.

        A letter behind the last sequence of its run is of a journal that was restored since: not of these records.
        """
        self._sequences.clear()
        if not self._path.exists():
            return
        with closing(FileEmitter(self._path)) as letters:
            letters.last([])
        with errors(self._path), self._path.open("rb") as lines:
            for found in filter(None, map(identity_of, lines)):
                if found[1] <= runs.get(found[0], 0):
                    self._sequences.add(found[1])

    def after(self, place: int) -> int:
        """The place behind the letters that follow directly on `place`: the sink is the cursor, letters only step."""
        while place + 1 in self._sequences:
            place += 1
        return place

    def add(self, sink: str, batch: Batch, rejected: Rejected) -> None:
        """Write one record and the reason. Raises ToolkitError where the table is the fault, not the record."""
        in_a_row = self.in_a_row + 1 if rejected.sequence == batch.first else 1
        if in_a_row > MAX_REJECTED:
            raise ToolkitError(f"{in_a_row} records in a row were rejected: {rejected.reason}")
        only = batch.between(rejected.sequence, rejected.sequence)
        # First, so that a record's own field of this name counts for a reader.
        line = b'{"reason":' + encoder.encode(rejected.reason) + b"," + only.lines[1:]
        with closing(FileEmitter(self._path)) as letters:
            letters.emit(Batch(batch.producer_id, rejected.sequence, 1, line, batch.codec))
        self.in_a_row = in_a_row
        logger.error("{}: sequence {} of {} went to {}: {}", sink, rejected.sequence, batch.producer_id, self._path,
                     rejected.reason)  # fmt: skip
