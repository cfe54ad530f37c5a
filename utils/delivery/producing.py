"""The steps that all producers share: open, pace, acknowledge, drain, report."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any

from loguru import logger

from utils.app import cli, signals, startup
from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.delivery.journal import Journal
from utils.delivery.worker import Delivery, Status
from utils.records.instants import instant_text
from utils.records.record import Batch
from utils.records.stream import Stream, declare, roles_of, schema_path
from utils.sinks import EMBEDDED, SINKS, ProducerOptions, RunOptions, check_places

MAX_APPEND, MAX_APPEND_BYTES = 20_000, 8 << 20  # records and bytes of a batch
STAMP_S = 0.001  # the text of the present time is used again for so long
MAX_HELD_S = 1.0  # records of a slow generator wait no longer for others to share their batch
START_WAIT_S = 2.0  # how long a start waits for the first answers of embedded sinks
REPORT_EVERY_S = 5.0
SHOWN_INTERVAL_S = 0.1  # at shorter intervals records are not logged, only the running total
# Workers and producer share the interpreter; with the default of 5 ms a busy producer starves them.
SWITCH_INTERVAL_S = 0.0005
MAX_NAMES, OTHERS = 100, "(others)"  # so many fields without a column are counted by name, the others together
MAX_SHOWN = 50  # characters of a name in a log line

MakeBatch = Callable[[Sequence[Any], str, int, Any], Batch]

Paced = Iterable[tuple[float, Any]]
"""Pairs of a gap (in intervals) and the Record after it. A record without a timestamp gets the present time."""


class Session:
    """One run of a producer, with its counts. Only one thread at a time may make batches and append them."""

    def __init__(self, delivery: Delivery, stop: threading.Event, max_bytes: int = 1 << 30) -> None:
        self.delivery, self.journal, self.stop = delivery, delivery.journal, stop
        self.counts: Counter[str] = Counter()
        self.extra_counts: Counter[str] = Counter()  # how often each field went to `extra`
        self.max_bytes = max_bytes  # of the journal
        self._logged: set[str] = set()  # logged reasons why the journal takes no records; empty while it does
        self._reported = time.monotonic(), 0  # time and value of the last running total in the log

    @property
    def code(self) -> int:
        """The exit code if the run ended now."""
        failed = any(worker.status.failure for worker in self.delivery.workers.values())
        return startup.UNFINISHED if failed or any(self.journal.pending().values()) else 0

    def batch(self, items: Sequence[Any], make: MakeBatch = Batch.of_lines) -> tuple[Batch, list[tuple[Any, str]]]:
        """Make the next batch. Return it, and each item that no sink can store with the reason."""
        try:
            return self._batch(items, make), []
        except ValueError:
            fit, rejected = list[Any](), list[tuple[Any, str]]()
        for item in items:
            try:
                self._batch([item], make)
                fit.append(item)
            except ValueError as error:
                rejected.append((item, str(error)))
        return self._batch(fit, make), rejected

    def _batch(self, items: Sequence[Any], make: MakeBatch) -> Batch:
        batch = make(items, self.journal.producer_id, self.journal.last + 1, self.journal.stream.codec)
        batch.columns  # noqa: B018  # computed here, once for all sinks
        return batch

    def append(self, batch: Batch, positions: Mapping[str, str] | None = None, *, shown: bool = False) -> bool:
        """Append the batch and the positions after it, once there is room. Return False if the run stops before."""
        self._note_kept(batch.extra_counts)
        if not self.write(partial(self.journal.append, batch, positions)):
            return False
        if self._logged and self.journal.pending_bytes < self.max_bytes // 2:
            logger.info("journal takes records again")
            self._logged.clear()
        self.delivery.wake()
        self.counts["acknowledged"] += batch.count
        for record in batch.records if shown else ():
            logger.info("{} {}", record.sequence, self.journal.stream.describe(record))
        (then_s, before), now_s, done = self._reported, time.monotonic(), self.counts["acknowledged"]
        if not shown and now_s - then_s >= REPORT_EVERY_S:
            self._reported = now_s, done
            logger.info("{:,} acknowledged, {:,.0f}/s", done, (done - before) / (now_s - then_s))
        return True

    def write(self, attempt: Callable[[], None]) -> bool:
        """Call `attempt` until it succeeds, and wait while disk or journal are full. Return False if the run stops."""
        while True:
            if self.has_room():
                try:
                    attempt()
                    return True
                except Unavailable as error:
                    self._log_once(f"journal cannot take records, waiting: {error}")
            with self.delivery.changed:
                self.delivery.changed.wait(0.2)
            if self.stop.is_set():
                return False

    def has_room(self) -> bool:
        """Return whether the journal is below its limit. Raises Unavailable if a sink that has failed keeps it full."""
        journal = self.journal
        if journal.pending_bytes >= self.max_bytes:
            with suppress(Unavailable):  # on a full disk it cannot be pruned, and stays full
                journal.prune()
        if journal.pending_bytes < self.max_bytes:
            return True
        pending = journal.pending()
        slowest = max(pending, key=lambda sink: pending[sink])
        full = f"journal is full ({self.max_bytes >> 20} MiB, JOURNAL_MAX_MB)"
        worker = self.delivery.workers.get(slowest)
        if worker is None or worker.status.failure:
            reason = worker.status.reason if worker else "it is not in this run: name it in --sinks or --drop it"
            raise Unavailable(f"{full} and {slowest} takes nothing: {reason}")
        self._log_once(f"{full}: waiting for {slowest}")
        return False

    def _log_once(self, text: str) -> None:
        if text not in self._logged:
            logger.warning("{}", text)
        self._logged.add(text)

    def _note_kept(self, kept: Counter[str]) -> None:
        """Count the fields that went to `extra`, and log the first MAX_NAMES names, each once."""
        counts, new = self.extra_counts, list[str]()
        for name, count in kept.most_common():
            has_place = name in counts or len(counts) < MAX_NAMES
            if has_place and name not in counts:
                new.append(repr(name[:MAX_SHOWN]))
            counts[name if has_place else OTHERS] += count
        if new:
            logger.warning("no column takes a value of {}: in SQL it is in the column extra", ", ".join(new))

    def summary(self, name: str) -> str:
        """Return one line with the counts of the run, and per sink what was delivered and what is pending."""
        counts, first = self.counts, "read" if "read" in self.counts else "made"
        words = [f"{name}: {first} {counts[first]:,}, acknowledged {counts['acknowledged']:,}"]
        if counts["rejected"]:
            words.append(f"rejected {counts['rejected']:,}")
        if most := [f"{field[:MAX_SHOWN]} {count:,}" for field, count in self.extra_counts.most_common(10)]:
            words.append(f"in extra: {', '.join(most)}")
        for sink, pending in self.journal.pending().items():
            worker = self.delivery.workers.get(sink)
            status = worker.status if worker else Status(reason=f"not in this run, --drop {sink} ends that")
            text = f"{sink} {status.delivered:,} delivered, {pending:,} pending"
            text += f", {status.dead_letters:,} dead letters" if status.dead_letters else ""
            words.append(text + (f" ({status.reason})" if status.reason else ""))
        return "; ".join(words)


@contextmanager
def session(
    stream: Stream, name: str, settings: Settings, *, sinks: Iterable[str], run: RunOptions, stop: threading.Event
) -> Iterator[Session]:
    """Open the journal `name` and the sinks. At the end, deliver what is pending and print the summary."""
    wanted = [sink for sink in dict.fromkeys(sinks) if sink not in run.drop]
    if not wanted:
        raise ToolkitError("no sink is left to produce to: name at least one with --sinks")
    check_places(settings, stream, wanted)
    stream = _declared(stream, settings)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with closing(Journal(settings.journal_path(name), stream)) as journal:
        journal.subscribe(wanted, drop=run.drop)
        connects = {sink: partial(SINKS[sink].emitter, settings, stream, journal.key) for sink in wanted}
        delivery = Delivery(journal, connects, settings.dead_letter_path)
        delivery.start([sink for sink in wanted if sink in EMBEDDED], START_WAIT_S)
        _log_start(name, journal, wanted)
        opened = Session(delivery, stop, settings.journal_max_mb << 20)
        try:
            yield opened
        finally:
            delivery.drain(run.drain)
            with suppress(Unavailable):  # on a full disk a later run does it
                journal.prune()
            cli.print_lines(opened.summary(name))


def _declared(stream: Stream, settings: Settings) -> Stream:
    """Return the stream of the schema file, and log the roles in which it differs from the producer's."""
    own_roles, declared = roles_of(stream), declare(stream, settings.schema_folder)
    for role, kept in roles_of(declared).items():
        if (own := own_roles[role]) not in (None, kept):
            path = schema_path(stream.name, settings.schema_folder)
            logger.info("{}: {} is {}, not {} as in the producer: edit this file to change it", path, role, kept, own)
    return declared


def _log_start(name: str, journal: Journal, wanted: Sequence[str]) -> None:
    """Log what is pending, the subscribed sinks that this run does not have, and the id of the run."""
    for sink, pending in journal.pending().items():
        if pending or sink not in wanted:
            hint = "" if sink in wanted else f": it is not in this run, --drop {sink} ends that"
            since = journal.subscriptions[sink].since
            logger.info("{} is subscribed since {}, {:,} pending{}", sink, since, pending, hint)
    logger.info("{}: producing to {} as {}", name, ", ".join(wanted), journal.producer_id)


def produce(stream: Stream, name: str, items: Paced, options: ProducerOptions, settings: Settings) -> int:
    """Run the producer `name` until its items end or the user stops it; return the exit code. Raises ToolkitError."""
    count = options.run.count and min(options.run.count, sys.maxsize)
    with session(
        stream, name, settings, sinks=options.sinks, run=options.run, stop=signals.stop_on_signals()
    ) as opened:
        _pace(opened, islice(items, count), options.interval)
    return opened.code


class _Made:
    """Records that were made but not yet appended. They share the next batch."""

    def __init__(self, run: Session, *, shown: bool) -> None:
        self._run, self._shown = run, shown
        self.records: list[Any] = []
        self.limit = 64  # records of a batch; grows while records are small

    def flush(self) -> None:
        """Append the records. Those that no sink can store are logged and left out."""
        batch, rejected = self._run.batch(self.records, Batch.of_records)
        self._run.counts.update(made=len(self.records), rejected=len(rejected))
        self.records.clear()
        for _, reason in rejected:
            logger.error("record rejected, no sink can store it: {}", reason)
        if batch.count:
            fitting = MAX_APPEND_BYTES * batch.count // len(batch.lines)
            self.limit = max(1, min(MAX_APPEND, 4 * self.limit, fitting))
            self._run.append(batch, shown=self._shown)


def _pace(run: Session, items: Paced, interval_s: float) -> None:
    """Append the first item at once and the others when they are due. Items that are due together share a batch."""
    made = _Made(run, shown=interval_s >= SHOWN_INTERVAL_S)
    records, stamp = made.records, ""
    due_s = began_s = stamped_s = 0.0
    try:
        for gap, item in items:
            if interval_s:
                due_s = due_s + gap * interval_s if due_s else time.monotonic()
                if due_s > time.monotonic():
                    made.flush()
                    run.stop.wait(due_s - time.monotonic())
            if run.stop.is_set():
                break
            now_s = time.time()  # a clock that is set back must not keep an old stamp, nor records that wait
            if not 0 <= now_s - stamped_s < STAMP_S:
                stamped_s, stamp = now_s, instant_text(int(now_s * 1000) * 1000)
            item.timestamp = item.timestamp or stamp
            began_s = began_s if records else now_s
            records.append(item)
            if len(records) >= made.limit or not 0 <= now_s - began_s < MAX_HELD_S:
                made.flush()
    finally:  # also if the generator raises
        made.flush()
