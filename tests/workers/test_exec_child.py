"""What a child gets to see of the worker."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.deploy.exec_child import (
    ABI_OF_SCOPES,
    ISOLATED,
    SHARED,
    find_isolation_obstacle,
    landlock_abi,
    launcher_command,
    launcher_environment,
)
from workers.runtime.deployments import child_environment
from workers.runtime.redaction import Secrets

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
    [
        *("PATH", "HOME", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "LD_AUDIT", "LD_PRELOAD", "LD_LIBRARY_PATH"),
        *("GLIBC_TUNABLES", "BASH_ENV", "DYLD_INSERT_LIBRARIES", "RUNQY_QUEUE", "1A", "A-B", ""),
    ],
)
def test_configured_variables_cannot_replace_reserved_ones(name: str) -> None:
    env = child_environment(virtual_environment=VENV, own={"RUNQY_QUEUE": "mail"}, configured={name: "planted"})

    assert "planted" not in env.values()


def test_the_worker_cannot_be_debugged() -> None:
    ask = "print(ctypes.CDLL(None).prctl(3))"
    code = f"import ctypes; from workers.runtime.main import make_undumpable; {ask}; make_undumpable(); {ask}"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["1", "0"]


def test_secrets_are_hidden_longest_first_and_line_by_line() -> None:
    secrets = Secrets()
    secrets.add(["planted", "planted-longer", "key line 1\nkey line 2", "short"])

    assert secrets.redact("planted-longer planted key line 2 short") == "**** **** **** short"


UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
"""Root would be kept out of nothing (CAP_PERFMON, CAP_SYS_PTRACE)."""


def start_isolated(mode: str, code: str) -> "subprocess.Popen[str]":
    words = [*UNPRIVILEGED, *launcher_command(is_isolated=mode == ISOLATED), sys.executable, "-c", code]
    env = launcher_environment({"PLANTED": "planted"})
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)


def environment_seen(mode: str, pid: int) -> str:
    """Return what a program can read of another one's environment."""
    code = f"print(open('/proc/{pid}/environ').read())"
    done = subprocess.run(
        [*UNPRIVILEGED, *launcher_command(is_isolated=mode == ISOLATED), sys.executable, "-c", code],
        capture_output=True,
        text=True,
    )
    return done.stdout or done.stderr.strip().splitlines()[-1]


@pytest.fixture
def other_child() -> Iterator[int]:
    """Run the child of another queue, and return its process id."""
    with start_isolated(ISOLATED, "print('ready', flush=True); import time; time.sleep(600)") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child.pid
        child.kill()


def test_a_child_cannot_read_the_environment_of_another_one_and_of_git(other_child: int) -> None:
    git = subprocess.Popen([*UNPRIVILEGED, "sleep", "600"], env={"PLANTED": "planted"})
    try:
        assert "planted" in environment_seen(SHARED, other_child)
        if not find_isolation_obstacle():
            assert "PermissionError" in environment_seen(ISOLATED, other_child)
            assert "PermissionError" in environment_seen(ISOLATED, git.pid)
    finally:
        git.kill()
        git.wait()


def test_the_launcher_ignores_a_queues_variables(tmp_path: Path) -> None:
    configured = {"LD_DEBUG": "files", "LD_DEBUG_OUTPUT": str(tmp_path / "linker"), "A": "1"}
    env = launcher_environment(configured)

    done = subprocess.run(
        [*launcher_command(is_isolated=True), "env"], env=env, capture_output=True, text=True, check=True
    )

    assert sorted(done.stdout.split()) == sorted(f"{name}={value}" for name, value in configured.items())
    reports = [report.read_text() for report in tmp_path.iterdir()]
    assert [line for report in reports for line in report.splitlines() if "program:" in line and "python" in line] == []


def test_a_child_cannot_signal_another_one(other_child: int) -> None:
    attack = start_isolated(
        ISOLATED, f"import os\ntry: os.kill({other_child}, 9)\nexcept PermissionError: print('refused')"
    )

    output = attack.communicate()[0]
    if landlock_abi() >= ABI_OF_SCOPES:
        assert output == "refused\n"
        os.kill(other_child, 0)


def test_a_child_can_do_what_it_could_do_before() -> None:
    code = (
        "import os, subprocess, sys, tempfile; os.chdir(tempfile.mkdtemp())\n"
        "os.mkdir('a'); os.mkdir('b'); open('a/f', 'w').close(); os.rename('a/f', 'b/g')\n"
        "own = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "open(f'/proc/{own.pid}/environ').read(); own.terminate(); print(own.wait(), os.listdir('b'))\n"
    )
    child = start_isolated(ISOLATED, code)

    assert child.communicate()[0] == "-15 ['g']\n"


def test_isolation_of_kernels_before_6_12_forbids_no_moves(tmp_path: Path) -> None:
    code = (
        "import os; from workers.deploy import exec_child as e; e.ABI_OF_SCOPES = 99; print(e.enter_domain())\n"
        f"os.chdir({str(tmp_path)!r}); os.mkdir('a'); os.mkdir('b'); open('a/f', 'w').close(); os.rename('a/f', 'b/g')"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == str(not find_isolation_obstacle())
    assert (tmp_path / "b" / "g").exists()


def test_says_that_a_container_forbids_isolation() -> None:
    # A filter as container runtimes install it: the system call that makes a Landlock ruleset fails with EPERM.
    code = (
        "import ctypes, struct; from workers.deploy import exec_child as e\n"
        "load, equal, result = 0x20, 0x15, 0x06; allow, refuse = 0x7FFF0000, 0x00050000 | 1\n"
        "steps = [(load, 0, 0, 0), (equal, 0, 1, e.SYS_CREATE_RULESET), (result, 0, 0, refuse)]\n"
        "steps.append((result, 0, 0, allow))\n"
        "program = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *step) for step in steps))\n"
        "filter = ctypes.create_string_buffer(struct.pack('HP', len(steps), ctypes.addressof(program)))\n"
        "assert e.libc.prctl(e.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0\n"
        "assert e.libc.prctl(22, 2, ctypes.byref(filter)) == 0\n"  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        "print(e.find_isolation_obstacle())"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "The seccomp profile of this container forbids Landlock.\n"
