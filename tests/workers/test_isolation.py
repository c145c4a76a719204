"""What a child gets to see of the worker."""

import subprocess
import sys
from pathlib import Path

import pytest

from workers.runtime.deployments import child_environment
from workers.runtime.logs import Secrets

VENV = Path("/srv/venv")


def test_a_child_gets_nothing_of_the_worker_but_path_home_and_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNQY_API_KEY", "planted")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")

    env = child_environment(virtual_environment=VENV, own={"RUNQY_QUEUE": "mail"}, configured={"A": "1"})

    assert "planted" not in env.values()
    assert env["PATH"] == "/srv/venv/bin:/usr/bin"
    assert (env["LANG"], env["A"], env["RUNQY_QUEUE"], env["VIRTUAL_ENV"]) == ("de_DE.UTF-8", "1", "mail", "/srv/venv")


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "VIRTUAL_ENV", "PYTHONPATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "RUNQY_QUEUE", "1A", "A-B", ""],
)
def test_configured_variables_cannot_replace_what_a_child_relies_on(name: str) -> None:
    env = child_environment(virtual_environment=VENV, own={"RUNQY_QUEUE": "mail"}, configured={name: "planted"})

    assert "planted" not in env.values()


def test_the_worker_lets_no_debugger_in() -> None:
    ask = "print(ctypes.CDLL(None).prctl(3))"
    code = f"import ctypes; from workers.runtime.main import make_undumpable; {ask}; make_undumpable(); {ask}"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["1", "0"]


def test_secrets_are_hidden_longest_first_and_line_by_line() -> None:
    secrets = Secrets()
    secrets.add(["planted", "planted-longer", "key line 1\nkey line 2", "short"])

    assert secrets.redact("planted-longer planted key line 2 short") == "**** **** **** short"
