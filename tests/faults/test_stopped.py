"""Ctrl+C and SIGTERM at any moment: one summary, exit 0 or 3, within the bound; a second one ends at once."""

import random
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.emitters.test_contract import hold_duckdb
from tests.helpers import assert_complete, last_assigned, ragini, start_python, wait_until
from utils.app.config import Settings

DRAIN_S = 2.0
SLOW_MACHINE_S = 3.0
SUMMARY = re.compile(r"^ragini: made [\d,]+, acknowledged [\d,]+; file ", re.MULTILINE)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")


def start(settings: Settings, *options: str) -> subprocess.Popen[str]:
    return start_python("producers.ragini_producer", "--drain", str(DRAIN_S), *options, settings=settings)


def read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"ended without {words!r}")


def end_of(process: subprocess.Popen[str]) -> tuple[int, str, str, float]:
    """Return exit code, stdout, stderr, and the seconds from now to the end."""
    began_s = time.monotonic()
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err, time.monotonic() - began_s


@pytest.mark.parametrize(("number", "interval"), [(signal.SIGINT, "0.01"), (signal.SIGTERM, "60")])
def test_a_signal_ends_with_one_summary(settings: Settings, number: signal.Signals, interval: str) -> None:
    process = start(settings, "--interval", interval)
    read_until(process, "producing to")
    wait_until(lambda: last_assigned(settings), 20)
    process.send_signal(number)
    code, out, err, took_s = end_of(process)
    assert (code, len(SUMMARY.findall(out)), "Traceback" in err) == (0, 1, False), err
    assert took_s < DRAIN_S + 1 + SLOW_MACHINE_S
    assert f"acknowledged {last_assigned(settings):,};" in out
    assert_complete(settings)


@pytest.mark.proof(
    "a signal ends a command with one summary within the drain bound",
    "Ctrl+C or SIGTERM at a random moment",
    full=4,
    long=30,
)
@pytest.mark.timeout(3600)  # for the long setting
def test_signals_at_random_moments_of_a_short_run(settings: Settings, times: int) -> None:
    """From the first log line to the end of the drain, a signal ends a run cleanly."""
    rng = random.Random(5)
    last = 0
    for _ in range(times):
        process = start(settings, "--interval", "0", "--count", "20000")
        read_until(process, "producing to")
        try:
            process.wait(rng.uniform(0, 0.6))
        except subprocess.TimeoutExpired:
            process.send_signal(rng.choice([signal.SIGINT, signal.SIGTERM]))
        code, out, err, took_s = end_of(process)
        assert code in (0, 3), err
        assert len(SUMMARY.findall(out)) == 1
        assert "Traceback" not in err
        assert took_s < DRAIN_S + 1 + SLOW_MACHINE_S
        assert (code == 0) == (out.count(" 0 pending") == 3)
        last = last_assigned(settings)
    ragini("--count", 1, settings=settings)
    assert last_assigned(settings) == last + 1
    assert_complete(settings)


@pytest.mark.proof(
    "a signal ends a command with one summary within the drain bound", "a signal while a sink is down", full=1
)
def test_a_signal_while_a_sink_is_away_ends_within_the_drain_bound(settings: Settings) -> None:
    ragini("--count", 1, settings=settings)
    with hold_duckdb(settings.duckdb_path):
        process = start(settings, "--interval", "0.01")
        read_until(process, "producing to")
        wait_until(lambda: last_assigned(settings) > 1, 20)
        process.send_signal(signal.SIGINT)
        code, out, err, took_s = end_of(process)
    assert (code, len(SUMMARY.findall(out)), "Traceback" in err) == (3, 1, False), err
    assert "duckdb 0 delivered" in out
    assert took_s < DRAIN_S + 1 + SLOW_MACHINE_S


@pytest.mark.full
def test_a_second_signal_ends_at_once(settings: Settings) -> None:
    ragini("--count", 1, settings=settings)
    process = start_python("producers.ragini_producer", "--interval", "0.01", "--drain", "600", settings=settings)
    read_until(process, "producing to")
    with hold_duckdb(settings.duckdb_path):
        read_until(process, "duckdb: unavailable")
        process.send_signal(signal.SIGINT)
        seen = last_assigned(settings)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        code, _, err, took_s = end_of(process)
    assert (code, "Traceback" in err) == (3, False)
    assert took_s < SLOW_MACHINE_S
    ragini("--count", 1, settings=settings)
    assert last_assigned(settings) > seen
    assert_complete(settings)
