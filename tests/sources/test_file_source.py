import errno
import gzip
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import open_files_stay
from utils.app.errors import ToolkitError, Unavailable
from utils.clients.line_file import MAX_LINE_BYTES
from utils.records.stream import BUZZ
from utils.sources.base import Chunk
from utils.sources.file_source import FileSource


def line(text: str) -> bytes:
    return json.dumps({"message": text}).encode() + b"\n"


def drain(source: FileSource, max_records: int = 1_000) -> list[Chunk]:
    chunks = []
    while (chunk := source.poll(max_records)) is not None:
        chunks.append(chunk)
    return chunks


def texts(chunks: list[Chunk]) -> list[str]:
    return [message.message for chunk in chunks for message in chunk.records]


def wrong(chunks: list[Chunk]) -> list[str]:
    return [invalid.where for chunk in chunks for invalid in chunk.invalid]


def from_start(path: Path, *, finished: bool = False) -> FileSource:
    return FileSource(path, BUZZ.codec, lambda partition: "", finished=finished)


@pytest.fixture
def live(tmp_path: Path) -> Path:
    return tmp_path / "live.json"


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(data)


class TestLines:
    def test_bom_crlf_blank_lines_and_fields_of_others(self, live: Path) -> None:
        live.write_bytes(b'\xef\xbb\xbf{"message":"a"}\r\n\r\n  \n{"message":"b","extra":[1]}\r\n')
        assert texts(drain(from_start(live))) == ["a", "b"]

    @pytest.mark.parametrize(
        "bad",
        [
            b"nonsense",
            b'{"message":1}',
            b"[]",
            b'{"message":"\xff"}',
            b'{"message":"\0"}',
            b'{\0"\0',
            b'{"message":"\\ud800"}',
        ],
    )
    def test_an_unreadable_line_is_counted_with_its_place_and_no_other(self, live: Path, bad: bytes) -> None:
        live.write_bytes(line("a") + bad + b"\n" + line("b"))
        chunks = drain(from_start(live))
        assert texts(chunks) == ["a", "b"]
        assert wrong(chunks) == [f"live.json byte {len(line('a'))}"]

    @pytest.mark.parametrize("max_records", [1, 2, 10])
    def test_invalid_lines_are_found_with_any_size_of_chunks(self, live: Path, max_records: int) -> None:
        data = b'{"message":"a","author":"","category":"","sentiment":0.5,"keyword_mentioned":"","message_length":1}'
        live.write_bytes(data + data + b"\n" + data.replace(b":", b":\n", 1) + b"\n" + data + b"\n")
        chunks = drain(from_start(live), max_records)
        assert texts(chunks) == ["a"]
        assert len(wrong(chunks)) == 3

    def test_at_most_max_records_at_once(self, live: Path) -> None:
        live.write_bytes(b"".join(line(str(number)) for number in range(10)))
        chunks = drain(from_start(live), max_records=3)
        assert [len(chunk.records) for chunk in chunks] == [3, 3, 3, 1]

    def test_a_line_waits_for_its_newline(self, live: Path) -> None:
        live.write_bytes(line("a") + b'{"message":"b"}')
        source = from_start(live)
        assert texts(drain(source)) == ["a"]
        append(live, b"\n")
        assert texts(drain(source)) == ["b"]

    def test_a_finished_file_may_end_without_a_newline_but_not_within_a_record(self, live: Path) -> None:
        live.write_bytes(line("a") + b'{"message":"b"}')
        source = from_start(live, finished=True)
        assert texts(drain(source)) == ["a", "b"]
        append(live, b"\n" + line("c"))
        chunks = drain(source)
        assert (texts(chunks), wrong(chunks)) == (["c"], [])
        live.write_bytes(line("a") + b'{"message":"b"')
        chunks = drain(from_start(live, finished=True))
        assert (texts(chunks), wrong(chunks)) == (["a"], [f"live.json byte {len(line('a'))}"])

    @pytest.mark.parametrize("size", [MAX_LINE_BYTES - 2, MAX_LINE_BYTES])
    def test_a_line_of_the_limit_is_read(self, live: Path, size: int) -> None:
        text = "x" * (size - len(line("")) + 1)
        live.write_bytes(line("a") + line(text) + line("b"))
        assert texts(drain(from_start(live), max_records=1)) == ["a", text, "b"]

    @pytest.mark.parametrize("size", [MAX_LINE_BYTES + 1, 3 * MAX_LINE_BYTES])
    def test_a_longer_line_is_invalid_in_pieces(self, live: Path, size: int) -> None:
        long = line("x" * (size - len(line("")) + 1))
        live.write_bytes(line("a") + long + line("b"))
        chunks = drain(from_start(live))
        assert (texts(chunks), wrong(chunks)[0]) == (["a", "b"], f"live.json byte {len(line('a'))}")
        assert b"".join(each.line for chunk in chunks for each in chunk.invalid) == long.rstrip()

    def test_the_rest_of_a_longer_line_is_no_record(self, live: Path) -> None:
        rest = line("rest")
        live.write_bytes(line("a") + b"x" * (MAX_LINE_BYTES + 1) + rest + line("b"))
        source = from_start(live)
        chunks = drain(source)
        assert (texts(chunks), len(wrong(chunks))) == (["a", "b"], 2)
        position = next(chunk.end for chunk in chunks if chunk.invalid)
        again = drain(FileSource(live, BUZZ.codec, lambda partition: position))
        assert (texts(again), [each.line for chunk in again for each in chunk.invalid]) == (["b"], [rest.rstrip()])

    def test_the_unreadable_end_of_a_finished_file_is_read_once_it_is_complete(self, live: Path) -> None:
        live.write_bytes(line("a") + b'{"message":')
        source = from_start(live, finished=True)
        assert len(wrong(drain(source))) == 1
        append(live, b'"b"}\n')
        assert texts(drain(source)) == ["b"]

    def test_a_longer_line_that_ends_a_finished_file_is_counted(self, live: Path) -> None:
        live.write_bytes(line("a") + b"x" * (2 * MAX_LINE_BYTES))
        assert wrong(drain(from_start(live, finished=True)))[0] == f"live.json byte {len(line('a'))}"

    def test_lines_that_end_in_cr_alone_are_counted_with_the_reason(self, live: Path) -> None:
        live.write_bytes(line("a").replace(b"\n", b"\r") * 2)
        (chunk,) = drain(from_start(live, finished=True))
        assert [invalid.reason for invalid in chunk.invalid] == ["lines end in CR alone: save the file with LF or CRLF"]


HOLE = b"\0" * (3 * MAX_LINE_BYTES)


class TestHoles:
    """Zeros in the file, left by a power cut or by a log that was copied and truncated."""

    @pytest.mark.parametrize("max_records", [1, 1_000])
    @pytest.mark.parametrize("size", [100, 60_000, MAX_LINE_BYTES - 20, MAX_LINE_BYTES, len(HOLE)])
    def test_records_before_and_behind_them_are_read(self, live: Path, size: int, max_records: int) -> None:
        live.write_bytes(line("a") + HOLE[:size] + line("b") + line("c"))
        chunks = drain(from_start(live), max_records)
        assert (texts(chunks), wrong(chunks)) == (["a", "b", "c"], [])

    @pytest.mark.parametrize("half", [b'{"mess', b"x" * (2 * MAX_LINE_BYTES)])
    def test_half_a_line_before_them_is_invalid(self, live: Path, half: bytes) -> None:
        live.write_bytes(line("a") + half + HOLE + line("b"))
        chunks = drain(from_start(live))
        assert (texts(chunks), wrong(chunks)[0]) == (["a", "b"], f"live.json byte {len(line('a'))}")

    @pytest.mark.full
    def test_one_poll_passes_many_of_them(self, live: Path) -> None:
        with live.open("wb") as file:
            file.truncate(64 * MAX_LINE_BYTES)
        append(live, line("b"))
        chunks = drain(from_start(live), 10_000)
        assert texts(chunks) == ["b"]
        assert len(chunks) <= 66

    def test_at_the_end_they_may_be_overwritten(self, live: Path) -> None:
        live.write_bytes(line("a") + b'{"mess' + bytes(100))
        source = from_start(live)
        assert texts(drain(source)) == ["a"]
        with live.open("r+b") as file:
            file.seek(len(line("a")))
            file.write(line("b" * 90))
        assert texts(drain(source)) == ["b" * 90]

    @pytest.mark.parametrize("size", [100, MAX_LINE_BYTES + 1, len(HOLE)])
    def test_a_preallocated_file_is_read_as_it_is_filled(self, live: Path, size: int) -> None:
        source, done = from_start(live), b""
        for number in range(3):
            live.write_bytes(done + bytes(size))
            assert drain(source) == []
            done += line(str(number))
            live.write_bytes(done[:-5] + bytes(size))
            assert drain(source) == []
            live.write_bytes(done + bytes(size))
            assert texts(drain(source)) == [str(number)]

    def test_a_position_within_them_is_resumed(self, live: Path) -> None:
        live.write_bytes(line("a") + HOLE)
        end = drain(from_start(live))[-1].end
        append(live, line("b"))
        assert texts(drain(FileSource(live, BUZZ.codec, lambda partition: end))) == ["b"]

    def test_from_the_end(self, live: Path) -> None:
        live.write_bytes(line("a") + HOLE)
        source = FileSource(live, BUZZ.codec, lambda partition: "end")
        drain(source)
        append(live, line("b"))
        assert texts(drain(source)) == ["b"]


class TestPositions:
    def test_resuming_reads_only_new_records(self, live: Path) -> None:
        live.write_bytes(line("a") + line("b"))
        end = drain(from_start(live))[-1].end
        append(live, line("c"))
        assert texts(drain(FileSource(live, BUZZ.codec, lambda partition: end))) == ["c"]

    def test_positions_follow_each_other(self, live: Path) -> None:
        live.write_bytes(b"".join(line(str(number)) for number in range(5)) + b"bad\n")
        source = from_start(live)
        chunks = drain(source, max_records=2)
        live.write_bytes(line("new"))
        chunks += drain(source)
        assert chunks[0].start == ""
        assert [chunk.end for chunk in chunks[:-1]] == [chunk.start for chunk in chunks[1:]]

    @pytest.mark.parametrize(
        "before",
        [
            b"",
            line("a"),
            line("a") + b'{"mess',
            b'{"mess',
            b"x" * (2 * MAX_LINE_BYTES),
            line("a") + b"x" * (2 * MAX_LINE_BYTES),
        ],
    )
    def test_from_the_end_only_new_records_are_read(self, live: Path, before: bytes) -> None:
        live.write_bytes(before)
        source = FileSource(live, BUZZ.codec, lambda partition: "end")
        chunks = drain(source)
        assert (texts(chunks), chunks[0].start) == ([], "end")
        append(live, b"\n" + line("b"))
        assert texts(drain(source)) == ["b"]

    def test_from_the_end_of_a_file_that_does_not_exist_yet(self, live: Path) -> None:
        source = FileSource(live, BUZZ.codec, lambda partition: "end")
        moved = source.poll(10)
        assert (moved and moved.start, moved and moved.end) == ("end", "")  # stored: a restart does not jump
        with pytest.raises(Unavailable, match="does not exist yet"):
            source.poll(10)
        live.write_bytes(line("a"))
        assert texts(drain(source)) == ["a"]


class TestArrays:
    @pytest.mark.parametrize("content", [b'[{"message":"a"}]', b'\xef\xbb\xbf\n[\n {"message":"a"},'])
    def test_an_array_is_named(self, live: Path, content: bytes) -> None:
        live.write_bytes(content)
        with pytest.raises(ToolkitError, match=r"live\.json is a JSON array, .*feed_producer"):
            drain(from_start(live))

    @pytest.mark.parametrize("finished", [True, False])
    def test_lines_of_which_the_first_is_an_array(self, live: Path, finished: bool) -> None:
        live.write_bytes(b'["x"]\n' + line("a"))
        source = from_start(live, finished=finished)
        chunks = drain(source)
        assert (texts(chunks), wrong(chunks)) == (["a"], ["live.json byte 0"])
        append(live, line("b"))
        assert texts(drain(source)) == ["b"]
        source = FileSource(live, BUZZ.codec, lambda partition: "end")
        assert drain(source)[0].records == []
        append(live, line("c"))
        assert texts(drain(source)) == ["c"]

    def test_only_json_files_are_arrays(self, tmp_path: Path) -> None:
        path = tmp_path / "live.jsonl"
        path.write_bytes(b'[{"message":"a"}]\n')
        assert len(wrong(drain(from_start(path)))) == 1


class TestBadInput:
    def test_a_file_without_permission_is_one_line(self, live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        live.write_bytes(b"")

        def denied(*_: object, **__: object) -> None:
            raise PermissionError

        monkeypatch.setattr(Path, "open", denied)
        with pytest.raises(ToolkitError, match="may not be read"):
            from_start(live).poll(1)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (gzip.compress(b'{"message":"a"}\n', mtime=0), "is compressed by gzip: unpack it first"),
            ('{"message":"a"}\n'.encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        ],
    )
    def test_a_file_of_another_kind_is_named(self, live: Path, content: bytes, reason: str) -> None:
        live.write_bytes(content)
        with pytest.raises(ToolkitError, match=f"live.json {reason}") as raised:
            from_start(live).poll(1)
        assert raised.value.exit_code == 2

    def test_a_failed_read_is_an_outage(self, live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(*_: object) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        live.write_bytes(line("a"))
        source = from_start(live)
        with monkeypatch.context() as patch:
            patch.setattr("utils.sources.file_source.read_at", failing)
            with pytest.raises(Unavailable, match="cannot be read"):
                source.poll(1)
        assert texts(drain(source)) == ["a"]

    def test_closing_twice(self, live: Path) -> None:
        live.write_bytes(line("a"))
        source = from_start(live)
        source.poll(1)
        source.close()
        source.close()


@open_files_stay
def test_a_file_from_the_future_is_left_once_it_is_replaced(live: Path) -> None:
    """The clock of a network drive's server may be ahead, or this one's was set back."""
    live.write_bytes(line("a"))
    os.utime(live, (4e9, 4e9))
    source = from_start(live)
    assert texts(drain(source)) == ["a"]
    live.rename(live.with_suffix(".old"))
    live.write_bytes(line("b"))
    assert texts(drain(source)) == ["b"]


# A model: what writers did to the file, and which records a reader must have, may have, and may have twice.

PRODUCERS = ("ann-1", "bob-2")


class Model:
    """A live file, all of its writers, and a reader that keeps its position as a processed store does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "live.jsonl"
        self.path.write_bytes(b"")
        self.sequences = dict.fromkeys(PRODUCERS, 0)
        self.lines: list[tuple[str, bytes]] = []  # whole lines of the present file
        self.unfinished = b""
        self.old: list[str] = []  # whole lines of a renamed file that is still open
        self.must: set[str] = set()
        self.may: set[str] = set()
        self.invalid_known, self.invalid = True, 0
        self.got: list[str] = []
        self.again_from: set[str] = set()  # may be read again, as they have no ids
        self.made = 0
        self.position = ""
        self.seen: set[tuple[str, int]] = set()
        self.may_repeat: set[tuple[str, int]] = set()
        self.counted = 0
        self.source = self.opened()

    def opened(self) -> FileSource:
        return FileSource(self.path, BUZZ.codec, lambda partition: self.position)

    # The writers

    def record(self, kind: str) -> tuple[str, bytes]:
        self.made += 1
        name = f"{kind} {self.made} {'x' * (self.made * 7 % 40)}"
        if kind == "external":
            return name, line(name)
        if kind == "invalid":
            return name, name.encode() + b"\n"
        self.sequences[kind] += 1
        record = {"message": name, "producer_id": kind, "sequence": self.sequences[kind]}
        return name, json.dumps(record).encode() + b"\n"

    def append(self, kinds: list[str]) -> None:
        self.cut_unfinished()
        for kind in kinds:
            self.write(*self.record(kind))

    def write(self, name: str, data: bytes) -> None:
        append(self.path, data)
        self.lines.append((name, data))
        if name.startswith("invalid"):
            self.invalid += 1
        else:
            self.must.add(name)

    def torn(self, at: float) -> None:
        """Write half a line, which the next writer finishes or cuts."""
        self.cut_unfinished()
        name, data = self.record("external")
        self.unfinished = data[: 1 + int(at * (len(data) - 2))]
        append(self.path, self.unfinished)
        self.pending = name, data

    def finish(self) -> None:
        if self.unfinished:
            name, data = self.pending
            rest = data[len(self.unfinished) :]
            self.unfinished = b""
            append(self.path, rest)
            self.lines.append((name, data))
            self.must.add(name)

    def cut_unfinished(self) -> None:
        if self.unfinished:
            os.truncate(self.path, sum(len(data) for _, data in self.lines))
            self.unfinished = b""

    def pass_over_unread(self) -> None:
        """Excuse the reader from what it has not read by now: it is gone."""
        missed = {name for name, _ in self.lines} - set(self.got)
        self.may |= missed & self.must
        self.must -= missed
        self.invalid_known = False

    def truncate(self, keep: float) -> None:
        """Cut the file at a line, as an emitter cuts a failed batch, and write half of the cut lines again."""
        kept = int(keep * len(self.lines))
        self.pass_over_unread()
        self.again_from |= {name for name, _ in self.lines[:kept]}
        cut, self.lines, self.unfinished = self.lines[kept:], self.lines[:kept], b""
        os.truncate(self.path, sum(len(data) for _, data in self.lines))
        for name, data in cut[: len(cut) // 2]:
            self.again_from.add(name)
            self.may.discard(name)
            self.write(name, data)

    def reader_is_here(self) -> bool:
        file = self.source._file
        return file is not None and os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))

    def leave(self) -> None:
        """Remove the present file; a reader that has it open still reads its rest."""
        if self.reader_is_here():
            if self.unfinished and len(self.unfinished) + 1 == len(self.pending[1]):
                self.must.add(self.pending[0])  # only its newline was missing
                self.old = [self.pending[0]]
            elif self.unfinished:
                self.invalid += 1
            self.old = [*self.old, *(name for name, _ in self.lines)]
        else:
            self.pass_over_unread()
        self.lines, self.unfinished = [], b""

    def rename(self, then: list[str]) -> None:
        self.leave()
        self.path.rename(self.folder / f"rotated-{sum(1 for _ in self.folder.iterdir())}")
        self.path.write_bytes(b"")
        self.append(then)

    def recreate(self, then: list[str]) -> None:
        self.leave()
        self.path.unlink()
        self.path.write_bytes(b"")
        self.append(then)

    def copy_truncate(self, then: list[str]) -> None:
        self.pass_over_unread()
        self.lines, self.unfinished = [], b""
        os.truncate(self.path, 0)
        self.append(then)

    # The reader

    def poll(self, max_records: int) -> bool:
        chunk = self.source.poll(max_records)
        if chunk is None:
            return False
        assert chunk.start == self.position
        assert len(chunk.records) + len(chunk.invalid) <= max_records
        if chunk.begins_again:
            self.may_repeat = set(self.seen)
        for record in chunk.records:
            ids = record.producer_id, record.sequence
            if ids in self.seen:
                assert ids in self.may_repeat, f"twice: {ids}"
                continue
            if record.producer_id:
                self.seen.add(ids)
            self.got.append(record.message)
        self.counted += len(chunk.invalid)
        self.position = chunk.end
        return True

    def drain(self) -> None:
        for _ in range(10_000):
            if not self.poll(7):
                return
        raise AssertionError("the reader never reaches the end")

    def restart(self) -> None:
        if not self.reader_is_here():
            gone = set(self.old) - set(self.got)
            self.may |= gone & self.must
            self.must -= gone
            self.invalid_known = False
        if self.unfinished:
            self.invalid_known = False
        self.old = []
        self.source.close()
        self.source = self.opened()

    def check(self) -> None:
        self.drain()
        got = set(self.got)
        assert self.must <= got, f"missing: {self.must - got}"
        assert got <= self.must | self.may, f"never written: {got - self.must - self.may}"
        twice = {name for name in got if self.got.count(name) > 1}
        assert {name for name in twice if not name.startswith("external")} == set()
        assert twice <= self.again_from
        if self.invalid_known:
            assert self.counted == self.invalid


KIND = st.sampled_from([*PRODUCERS, *PRODUCERS, "external", "invalid"])
SOME, PERHAPS = st.lists(KIND, min_size=1, max_size=8), st.lists(KIND, max_size=12)
STEPS = st.one_of(
    st.tuples(st.just("append"), SOME),
    st.tuples(st.just("torn"), st.sampled_from([0.0, 0.5, 0.9, 1.0])),
    st.tuples(st.just("finish")),
    st.tuples(st.just("truncate"), st.floats(0, 1)),
    st.tuples(st.sampled_from(["rename", "recreate", "copy_truncate"]), PERHAPS),
    st.tuples(st.just("poll"), st.integers(1, 9)),
    st.tuples(st.just("drain")),
    st.tuples(st.just("restart")),
)


@pytest.mark.proof(
    "a reader gets every record once, whatever happens to its file or table",
    "appends, partial lines, truncation, renaming and copies of a file, and repeated reads, against a model",
    quick=50,
    full=300,
    long=10_000,
)
@open_files_stay
def test_whatever_happens_to_a_file_it_is_read_once_and_whole(times: int, long: bool, disk_folder: Path) -> None:
    # On a disk a new file gets the inode of a deleted one.
    @settings(
        max_examples=times, deadline=None, database=None, derandomize=not long, suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(STEPS, min_size=5, max_size=30))
    def run(steps: list[tuple[str, object]]) -> None:
        with TemporaryDirectory(dir=disk_folder) as folder:
            model = Model(Path(folder))
            try:
                for name, *arguments in steps:
                    getattr(model, name)(*arguments)
                model.check()
            finally:
                model.source.close()

    run()
