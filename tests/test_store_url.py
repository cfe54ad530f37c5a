"""PROCESSED_STORE_URL: valid addresses, and errors that never show the password."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import run_here
from utils.app import log
from utils.app.config import Settings, passwords, processed_store_url
from utils.app.errors import ToolkitError


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("postgresql://ann:word@db.example:5433/shop?sslmode=verify-full&sslrootcert=/a/b.pem", "db.example:5433/shop"),
        ("postgres://ann@db/shop", "db/shop"),
        ("postgresql://ann:w%40rd%2F@[::1]:5432/my%20shop", "[::1]:5432/my shop"),
        ("postgresql://a,b:5433/x?target_session_attrs=read-write", "a,b:5433/x"),
        ("postgresql://", "local/"),
    ],
)
def test_addresses(text: str, place: str) -> None:
    url = processed_store_url({"PROCESSED_STORE_URL": text})
    assert url
    assert (url.text, url.place) == (text, place)


def test_empty_addresses_are_none() -> None:
    assert processed_store_url({}) is None
    assert processed_store_url({"PROCESSED_STORE_URL": ""}) is None


@pytest.mark.parametrize(
    "text",
    [
        "mysql://a:pw-1@b/c", "db.example/shop", "postgresql://a:p@pw-1@b/c", "postgresql://a:p/pw-1@b/c",
        "postgresql://a:p#pw-1@b/c", "postgresql://a:p?pw-1@b/c", "postgresql://a:pw-1%@b/c", "postgresql://a:pw 1@b/c",
        "postgresql://a:pw-1@b:five/c", "postgresql://a:pw-1%00@b/c",
    ],
)  # fmt: skip
def test_an_invalid_address_is_one_line(text: str) -> None:
    with pytest.raises(ToolkitError, match="PROCESSED_STORE_URL is not postgresql://") as raised:
        processed_store_url({"PROCESSED_STORE_URL": text})
    assert raised.value.exit_code == 2
    assert "pw" not in str(raised.value)


@given(password=st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=8), raw=st.booleans())
def test_the_password_is_masked_however_it_is_written(password: str, raw: bool) -> None:
    written = password if raw else quote(password, safe="")
    for text in (f"postgresql://ann:{written}@db/x", f"postgresql://db/x?user=ann&password={quote(password, safe='')}"):
        secrets = passwords({"PROCESSED_STORE_URL": text})
        shown = log.masked(f"cannot use {text}: {password} is wrong", secrets)
        assert password not in shown, shown


@pytest.mark.full
def test_a_command_shows_no_password(settings: Settings) -> None:
    """Neither terminal nor log show the password, for an invalid address and for one where nobody listens."""
    for text, words in (
        ("postgresql://ann:pass@word-1@127.0.0.1:1/x", "PROCESSED_STORE_URL is not"),
        ("postgresql://ann:pass%40word-1@127.0.0.1:1/x", "127.0.0.1:1/x"),
    ):
        done = run_here(
            "consumers.kafka_consumer_case", "--once", "--log-level", "DEBUG", settings=settings,
            environment={"PROCESSED_STORE_URL": text},
        )  # fmt: skip
        shown = (
            done.stdout + done.stderr + "".join(path.read_text() for path in (settings.data_path / "logs").glob("*"))
        )
        assert (done.returncode in (2, 3), words in shown) == (True, True), shown
        assert "word-1" not in shown
        assert len([line for line in done.stderr.splitlines() if "DEBUG" not in line]) == 1, done.stderr
