"""The command line itself."""

import subprocess
import sys

import pytest

from runqy import __name__ as package


def test_version_is_the_installed_one(run):
    result = run("--version")

    assert (result.exit_code, result.stdout) == (0, f"{package} 1.0.0\n")


def test_version_of_the_server_is_printed_if_it_can_be_reached(run, server):
    server.responses = [(200, {"version": "1.2.0"}), (503, {"code": "broker_unavailable", "detail": "No Redis."})]

    reached, away = run("version"), run("version")

    assert reached.stdout == "runqy 1.0.0\nserver 1.2.0 (http://localhost:3000)\n"
    assert (away.exit_code, away.stdout, away.stderr) == (0, "runqy 1.0.0\n", "runqy: No Redis.\n")


@pytest.mark.parametrize("words", [(), ("task",), ("queue",), ("config",), ("worker",), ("vault",)])
def test_help_shows_whole_sentences(run, words):
    listed = run(*words, "--help").stdout.partition("Commands:")[2]

    assert listed
    assert "..." not in listed


def test_commands_are_declared_without_slow_imports():
    slow = ("django", "environs", "gunicorn", "httpx2", "redis", "rich", "ruamel")
    program = f"import sys, runqy.cli.main; print([m for m in {slow} if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_missing_server_dependencies_are_a_one_line_error(run, monkeypatch):
    monkeypatch.setattr("runqy.cli.main.find_spec", lambda name: None)

    result = run("up")

    assert result.exit_code == 1
    assert result.stderr == "runqy: The server is not installed. Run pip install 'runqy[server]'.\n"
