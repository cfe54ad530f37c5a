"""Bad options, variables and .env files: one line on stderr that says what, where and what to do; exit code 2."""

import importlib
import re
from pathlib import Path

import pytest

from utils.app import cli
from utils.sinks import ALL

PRODUCERS = ("producers.ragini_producer", "producers.producer_case")
STORING = tuple(f"consumers.{sink}_consumer_case" for sink in ("file", "sqlite", "duckdb", "kafka"))
VIEWS = ("consumers.ragini_consumer", "consumers.ragini_visual_consumer")
PROOF = ("verify_emitters", "scripts.chaos")

UNKNOWN = ("--no-such-thing", "Unknown option: --no-such-thing")
EVERY = [
    ("-x", "Unknown option: -x"),
    ("extra", "unknown argument 'extra'"),
    ("--data-dir", "Parameter --data-dir requires an argument"),
    ("--data-dri x", "Unknown option: --data-dri. Did you mean --data-dir?"),
    ("--log-level LOUD", 'Invalid value "LOUD" for --log-level. Choose from: "DEBUG", "INFO", "WARNING", "ERROR"'),
]
PRODUCING = [
    ("--cuont 3", "Unknown option: --cuont. Did you mean --count?"),
    ("--count 0", 'Invalid value "0" for --count. Must be > 0'),
    ("--count 1.5", '--count: unable to convert "1.5" into int'),
    ("--interval 1e10", "for --interval. Must be <= 1000000000."),
    ("--interval nan", "for --interval. Must be <= 1000000000."),
    ("--interval fast", '--interval: unable to convert "fast" into float'),
    ("--sinks paper", 'Invalid value "paper" for --sinks. Choose from: "file", "sqlite", "duckdb", "kafka"'),
    ("--sinks file,sqlite", 'Invalid value "file,sqlite" for --sinks'),
    ("--sinks --count 3", "no sink is left to produce to: name at least one with --sinks"),
    (f"--drop {' '.join(ALL)}", "no sink is left to produce to"),
    ("--drop paper", 'Invalid value "paper" for --drop'),
    ("--drain -1", "for --drain. Must be >= 0"),
    ("--journal-max-mb 0", 'Invalid value "0" for --journal-max-mb. Must be > 0'),
    ("--kafka-partitions 0", 'Invalid value "0" for --kafka-partitions. Must be > 0'),
    ("--topic", "Parameter --topic requires an argument"),
    ("--group x", "Unknown option: --group"),
]
CONSUMING = [
    ("--from middle", 'Invalid value "middle" for --from. Choose from'),
    ("--from", "Parameter --from requires an argument"),
    ("--once=maybe", '--once: unable to convert "maybe" into bool'),
    ("--count 0", 'Invalid value "0" for --count. Must be > 0'),
    ("--jsn", "Unknown option: --jsn. Did you mean --json?"),
    ("--journal-max-mb 10", "Unknown option: --journal-max-mb"),
    ("--stream Not-A-Name", "'Not-A-Name' cannot name a stream: use at most 60 lowercase letters"),
]
OWN = {
    "consumers.file_consumer_case": [
        ("--topic x", "Unknown option: --topic"),
        ("--every 0", "for --every. Must be"),
        ("--every 1e-9", "for --every. Must be"),
        ("--every 1e18", "for --every. Must be"),
        ("--every nan", "for --every. Must be"),
        ("--every 60 --lateness -1", "for --lateness. Must be"),
        ("--every 60 --lateness 1e18", "for --lateness. Must be"),
    ],
    "consumers.kafka_consumer_case": [("--group", "Parameter --group requires an argument")],
    "producers.replay_producer": [
        ("", "Parameter RECORDING requires an argument"),
        ("missing.jsonl", "there is no file missing.jsonl"),
        ("missing.jsonl --sinks paper", 'Invalid value "paper" for --sinks'),
        ("--speed -1 missing.jsonl", "for --speed. Must be >= 0"),
        ("missing.jsonl --stream 9", "'9' cannot name a stream"),
    ],
    "producers.ragini_producer": [("--pattern zigzag", 'Invalid value "zigzag" for --pattern. Choose from: "steady"')],
    "consumers.ragini_consumer": [
        ("--source paper", 'Invalid value "paper" for --source. Choose from: "auto"'),
        ("--top --every 1e-9", "for --every. Must be"),
    ],
    "consumers.ragini_visual_consumer": [
        ("--source paper", 'Invalid value "paper" for --source. Choose from: "auto"'),
        ("--theme pink", 'Invalid value "pink" for --theme. Choose from: "light", "dark"'),
        ("--size big", "Parameter --size requires 2 positional arguments"),
        ("--frames 0", 'Invalid value "0" for --frames. Must be > 0'),
        ("--points 10001", 'Invalid value "10001" for --points. Must be <= 10000'),
        ("--rolling 101", 'Invalid value "101" for --rolling. Must be <= 100'),
        ("--duration -1", "for --duration. Must be > 0"),
        ("--refresh 0", "for --refresh. Must be > 0"),
        ("--from stored", 'Invalid value "stored" for --from. Choose from: "start", "end"'),
    ],
    "verify_emitters": [
        ("adit", "unknown argument 'adit'"),
        ("check --sinks paper", 'Invalid value "paper" for --sinks'),
        ("audit --sinks paper", 'Invalid value "paper" for --sinks'),
        ("audit --jsn", "Unknown option: --jsn. Did you mean --json?"),
        ("audit", "nothing to audit: no journal in"),
        ("doctor --sinks file", "Unknown option: --sinks"),
    ],
    "scripts.chaos": [
        ("--kills -1", 'Invalid value "-1" for --kills'),
        ("--minutes 0", "for --minutes"),
        ("--sinks paper", 'Invalid value "paper" for --sinks'),
    ],
}
OPTIONS = [
    *((module, *UNKNOWN) for module in (*PRODUCERS, *STORING, *VIEWS, *PROOF)),
    *((module, *case) for module in (PRODUCERS[0], STORING[0], VIEWS[1]) for case in EVERY),
    *((PRODUCERS[0], *case) for case in PRODUCING),
    *((module, *case) for module in (STORING[0], VIEWS[0]) for case in CONSUMING),
    *((module, *case) for module, cases in OWN.items() for case in cases),
]


def rejected(module: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that rejects the options; assert exit code 2 and an empty stdout."""
    command = importlib.import_module(module)
    run = getattr(command, "run", None)
    code = run(arguments) if run else cli.run(command.main, name=module, arguments=arguments)
    shown = capsys.readouterr()
    assert code == 2, shown
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith(f"{module}: ")
    assert "Traceback" not in line
    return line


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a folder with an empty .env."""
    (tmp_path / ".env").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("module", "options", "words"), OPTIONS)
def test_options(module: str, options: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert words in rejected(module, options.split(), capsys)
    assert not (tmp_path / "data").exists(), "a rejected command leaves nothing behind"


VARIABLES = [
    ("MESSAGE_INTERVAL_SECONDS", "soon", 'for MESSAGE_INTERVAL_SECONDS from env: unable to convert "soon" into float'),
    ("MESSAGE_INTERVAL_SECONDS", "-5", "for MESSAGE_INTERVAL_SECONDS provided by env. Must be >= 0"),
    ("MESSAGE_INTERVAL_SECONDS", "nan", "for MESSAGE_INTERVAL_SECONDS provided by env. Must be <= 1000000000."),
    ("JOURNAL_MAX_MB", "0", 'Invalid value "0" for JOURNAL_MAX_MB'),
    ("JOURNAL_MAX_MB", "1 GB", 'for JOURNAL_MAX_MB: unable to convert "1 GB" into int'),
    ("LOG_LEVEL", "info!", 'Invalid value "info!" for LOG_LEVEL'),
    ("KAFKA_PARTITIONS", "-4", 'Invalid value "-4" for KAFKA_PARTITIONS'),
    ("KAFKA_REPLICATION", "all", 'for KAFKA_REPLICATION: unable to convert "all" into int'),
]


@pytest.mark.parametrize(("variable", "value", "words"), VARIABLES)
def test_variables(
    variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(".env").write_text(f'{variable}="{value}"\n')
    assert words in rejected("producers.ragini_producer", ["--count", "1"], capsys)
    Path(".env").write_text("")
    monkeypatch.setenv(variable, value)
    assert words in rejected("producers.ragini_producer", ["--count", "1"], capsys)


ENV_FILES: list[tuple[bytes, str]] = [
    (b"what is this=\n", r"\.env line 1: what is not NAME=VALUE"),
    (b"LOG_LEVEL=INFO\n\n=5\n", r"\.env line 3: this line is not NAME=VALUE"),
    (b'BUZZ_TOPIC="open\n', r"\.env line 1: .* is not NAME=VALUE"),
    (b"BUZZ_TOPIC='open\nLOG_LEVEL=INFO\n", r"\.env line 1: .* is not NAME=VALUE"),
    (b"[section]\nLOG_LEVEL=INFO\n", r"\.env line 1: .* is not NAME=VALUE"),
    (b"BUZZ_TOPIC: x\n", r"\.env line 1: BUZZ_TOPIC is not NAME=VALUE"),
    (b"LOG_LEVEL=\xff\xfe\n", r"\.env cannot be read: .*save it as UTF-8"),
    ("LOG_LEVEL=INFO\n".encode("utf-16"), r"\.env cannot be read: .*save it as UTF-8"),
    (b"LOG_LEVEL=a\0b\n", r"\.env line 1: LOG_LEVEL is not NAME=VALUE"),
    (b"# first\nLOG_LEVEL\n", r"\.env line 2: LOG_LEVEL is not NAME=VALUE"),
    (bytes(range(128, 256)), r"\.env cannot be read"),
]


@pytest.mark.parametrize(("content", "pattern"), ENV_FILES)
def test_env_files(content: bytes, pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(".env").write_bytes(content)
    assert re.search(pattern, rejected("producers.ragini_producer", ["--count", "1"], capsys))


def test_an_env_file_that_is_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".env").unlink()
    Path(".env").mkdir()
    assert ".env cannot be read: " in rejected("producers.ragini_producer", ["--count", "1"], capsys)
