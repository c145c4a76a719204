"""The search for leaked secrets finds them: a search that cannot fail would prove nothing."""

import base64
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import path

from tests.support.secret_leaks import REGISTER, Canary

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def canary() -> Canary:
    """Return a canary of the test's own, which may be let out."""
    return Canary()


@pytest.mark.parametrize(
    "encode",
    [
        pytest.param(str.encode, id="plain"),
        pytest.param(lambda text: text.upper().encode(), id="upper"),
        pytest.param(lambda text: text.encode().hex().encode(), id="hex"),
        pytest.param(lambda text: text.encode("utf-16-be"), id="utf-16"),
        pytest.param(lambda text: base64.b64encode(text.encode()), id="base64"),
        pytest.param(lambda text: base64.b64encode(b"1" + text.encode()), id="base64 behind one byte"),
        pytest.param(lambda text: base64.urlsafe_b64encode(b"12" + text.encode() + b"3"), id="base64 behind two bytes"),
        pytest.param(lambda text: base64.b64encode(text.encode()).hex().encode(), id="hex of base64"),
        pytest.param(lambda text: quote(text).encode(), id="quoted"),
        pytest.param(lambda text: "".join(f"%{ord(char):02X}" for char in text).encode(), id="percent"),
        pytest.param(lambda text: json.dumps({"a": [text]}).encode(), id="json"),
        pytest.param(lambda text: repr(text.encode()).encode(), id="repr"),
    ],
)
def test_a_leak_is_found_in_every_encoding(canary: Canary, encode, tmp_path: Path) -> None:
    folder = tmp_path / "somewhere" / "deep"
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"x" * ((1 << 24) - 10) + encode(canary.secret()) + b"y" * 100)

    canary.look_into([tmp_path])

    assert canary.leaks
    assert str(folder / "file") in canary.leaks[0]


def test_text_that_only_resembles_the_secret_is_no_leak(canary: Canary, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f"canary {canary.core[:-1]} {canary.core[1:]} {Canary().secret()}")

    canary.look_into([tmp_path, tmp_path / "gone"])

    assert canary.leaks == []


def log_message(secret: str) -> None:
    """Log a secret as an argument."""
    logging.getLogger("some.library").error("value: %s", secret)


def log_trace(secret: str) -> None:
    """Log an exception that contains a secret."""
    try:
        raise ValueError(secret)
    except ValueError:
        logging.getLogger("some.library").exception("it failed")


def log_extra(secret: str) -> None:
    """Log a secret beside the message."""
    logging.getLogger("some.library").error("it failed", extra={"value": secret})


@pytest.mark.parametrize("leak", [log_message, log_trace, log_extra])
def test_a_leak_in_a_log_record_is_found(canary: Canary, leak) -> None:
    with canary.watch():
        leak(canary.secret())

    assert "log of some.library: plain" in canary.leaks
    leak(canary.secret())
    assert len(set(canary.leaks)) == 1, "nothing is watched any more"


LEAKED = Canary()
urlpatterns = [
    path("page", lambda _: HttpResponse(f"<input value='{LEAKED.secret()}'>")),
    path("header", lambda _: HttpResponse("", headers={"X-Value": LEAKED.secret()})),
    path(REGISTER[1:], lambda _: HttpResponse(LEAKED.secret())),
]


@pytest.mark.parametrize("path", ["/page", "/header"])
@override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=["tests.support.secret_leaks.search_responses"])
def test_a_leak_in_a_response_is_found(path: str) -> None:
    LEAKED.leaks.clear()

    with LEAKED.watch():
        Client().get(REGISTER)
        assert LEAKED.leaks == []
        Client().get(path)

    assert LEAKED.leaks == [f"response of {path}: plain"]


PLACES = {
    "log": "log of leaky: plain",
    "redis": ".incr.aof: plain",
    "database": "test.sqlite3 after ",
    "file": "worker.log: plain",
}
"""Ways to leak, and what is reported of each."""


@pytest.mark.parametrize("ways", [list(PLACES), []])
def test_a_run_whose_tests_leak_fails(ways: list[str]) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "RUNQY_", "REDIS_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", "tests/secret_leaks/leak.py"],
        cwd=ROOT,
        env=env | {"RUNQY_TEST_LEAK": " ".join(ways)},
        capture_output=True,
        text=True,
    )

    assert ("Secrets of vaults were found" in done.stdout) == bool(ways), done.stdout
    assert [way for way, place in PLACES.items() if place in done.stdout] == ways, done.stdout
    assert (done.returncode == 0) == (not ways), done.stdout
