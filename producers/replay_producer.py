"""Sends the records of a recording again, as new ones, with their original gaps."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from threading import Event
from typing import Annotated, Any

from cyclopts import Parameter

from utils.app import cli
from utils.app.config import BUZZ, DEFAULTS, PRODUCING, Reads, Settings, Speed, StreamName
from utils.app.startup import UNFINISHED
from utils.delivery import producing
from utils.feeds.feeding import described
from utils.feeds.inputs import PLAIN, InputOptions, find_input
from utils.reading.follow import InvalidLog
from utils.records.codec import Codec
from utils.records.infer import event_time
from utils.records.record import Batch, Line
from utils.records.stream import Stream
from utils.records.table import Table
from utils.sinks import EMBEDDED, WHOLE_RUN, Making, Run, Sinks
from utils.sources.base import Source


def main(
    recording: Annotated[str, Parameter(help="What feed_producer reads: a file, or a table of a database.")],
    /,
    *,
    stream: StreamName = BUZZ,
    speed: Speed = 1.0,
    options: InputOptions = PLAIN,
    sinks: Sinks = EMBEDDED,
    run: Run = WHOLE_RUN,
    settings: Annotated[Settings, Reads(*PRODUCING)] = DEFAULTS,
) -> int:
    """Send the records of a recording again, under new ids: to fill sinks, or to deliver dead letters."""
    options = replace(options, table=options.table or Table(Stream(stream)).name)
    found = find_input(recording, options, settings, Event())
    declared = described(found, stream, settings, Event())
    assert declared is not None, "nothing can stop it"
    name = "replay" if stream == BUZZ else f"replay-{stream}"
    replay = Replay(found.open(declared, lambda partition: "", True), event_time(declared), run.count)
    making = Making(interval=1 / speed if speed else 0.0, sinks=sinks, run=replace(run, count=None))
    code = producing.produce(declared, name, replay.paced(), making, settings, make=replay.make)
    cli.print_lines(f"{recording}: {cli.counted(replay.valid, 'record')} read, {replay.invalid:,} invalid")
    return code if replay.ended else code or UNFINISHED


class Replay:
    """Paces recorded lines by their event times, at most `count`, and counts them; invalid ones are logged.

    `ended` says that each line that was asked for has been handed on.
    """

    def __init__(self, source: Source, event_us: Callable[[Any], int | None], count: int | None = None) -> None:
        self._source, self._event_us, self._count = source, event_us, count
        self._producer_id = ""  # of this run, once it has sent something
        self.ended = False
        self.valid = self.invalid = 0

    def paced(self) -> Iterator[tuple[float, Line]]:
        """Pairs of the seconds since the line before, 0 where they are not known, and the line."""
        before_us: int | None = None
        for line in self._lines():
            if self._producer_id and line.record.producer_id == self._producer_id:
                break  # the recording is one of the sinks of this run
            self.valid += 1
            at_us = self._event_us(line.record)
            yield 0.0 if at_us is None or before_us is None else max(0.0, (at_us - before_us) / 1e6), line
            before_us = before_us if at_us is None else at_us
            if self.valid == self._count:
                break
        self.ended = True  # whoever asks for more has taken over the last one

    def _lines(self) -> Iterator[Line]:
        log = InvalidLog()
        with closing(self._source) as source:
            while (chunk := source.poll(producing.MAX_APPEND)) is not None:
                yield from chunk.records
                log.add(chunk.invalid)
                self.invalid += len(chunk.invalid)

    def make(self, lines: Sequence[Line], producer_id: str, first: int, codec: Codec) -> Batch:
        """The batch that sends these lines. Raises ValueError for what no sink can store."""
        self._producer_id = producer_id
        return Batch.of_lines(lines, producer_id, first, codec)


if __name__ == "__main__":
    sys.exit(cli.run(main, name="producers.replay_producer"))
