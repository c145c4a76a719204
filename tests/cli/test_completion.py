"""Completion of commands and names in shells: by the protocol, and in bash itself."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

KEY = "completion-key"
ANSWERS = {
    "/api/cli/queues": {"queues": [{"queue": "mail"}, {"queue": "inference_high"}, {"queue": "inference_low"}]},
    "/api/cli/configs": {"queues": [{"name": "inference"}, {"name": "mail"}]},
    "/api/cli/workers": {"workers": [{"worker_id": "gpu-1"}, {"worker_id": "gpu-2"}]},
    "/api/vaults": {"vaults": [{"name": "api-keys"}, {"name": "github"}]},
    "/api/vaults/api-keys/entries": {"entries": [{"key": "OPENAI"}, {"key": "HF"}]},
    "/api/keys": {"keys": [{"id": 7, "revoked_at": None}, {"id": 8, "revoked_at": "2026-01-01T00:00:00Z"}]},
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.headers["Authorization"] == f"Bearer {KEY}" and ANSWERS.get(self.path.partition("?")[0])
        body = msgspec.json.encode(known or {"detail": "no"})
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Start a server that knows some names."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def complete(url: str, tmp_path: Path) -> Callable[..., list[str]]:
    """Return a function that gives what bash is offered for the last word of a command line."""

    def call(*words: str, tries: int = 10, **env: str) -> list[str]:
        line = ["runqy", *words]
        given = {"RUNQY_SERVER_URL": url, "RUNQY_API_KEY": KEY} | env
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "_RUNQY_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(line),
            "COMP_CWORD": str(len(line) - 1),
        } | given
        command = [sys.executable, "-c", "from runqy.cli.main import main; main()"]
        offered: list[str] = []
        # On a busy machine the server may take more than the second that a shell waits.
        while tries and not offered:
            done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=25)
            assert done.stderr == ""
            offered, tries = done.stdout.split(), tries - 1
        return offered

    return call


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("wor",), ["worker"]),
        (("vault", "de"), ["delete", "deliveries"]),
        (("task", "list", "inf"), ["inference_high", "inference_low"]),
        (("task", "enqueue", "-q", "m"), ["mail"]),
        (("task", "list", "mail", "--state", "a"), ["active", "archived"]),
        (("queue", "delete", ""), ["inference", "mail"]),
        (("worker", "show", ""), ["gpu-1", "gpu-2"]),
        (("vault", "set", "api-keys", ""), ["HF", "OPENAI"]),
        (("apikey", "revoke", ""), ["7"]),
        (("worker", "list", "-o", "j"), ["json"]),
        (("alerts", "--level", "c"), ["critical"]),
    ],
    ids=" ".join,
)
def test_commands_and_names_are_completed(
    complete: Callable[..., list[str]], words: tuple[str, ...], expected: list[str]
) -> None:
    assert complete(*words) == expected


def test_names_are_those_of_the_server_that_the_line_selects(complete: Callable[..., list[str]], url: str) -> None:
    away = {"RUNQY_SERVER_URL": "http://127.0.0.1:1", "RUNQY_API_KEY": ""}

    assert complete("-s", url, "-k", KEY, "vault", "show", "", **away) == ["api-keys", "github"]


def test_profiles_are_completed(complete: Callable[..., list[str]], tmp_path: Path) -> None:
    file = tmp_path / "runqy/profiles.json"
    file.parent.mkdir()
    file.write_text('{"profiles":{"prod":{"url":"http://a","key":"b"},"staging":{"url":"http://a","key":"b"}}}')
    file.chmod(0o600)

    assert complete("auth", "switch", "", XDG_CONFIG_HOME=str(tmp_path)) == ["prod", "staging"]


@pytest.mark.parametrize(
    ("shell", "expected"), [("zsh", '_arguments \'*: :(("gpu-1"\n"gpu-2"))\''), ("fish", "gpu-1\ngpu-2")]
)
def test_other_shells_are_offered_the_same(complete: Callable[..., list[str]], shell: str, expected: str) -> None:
    env = {"_RUNQY_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "runqy worker show g"}
    env |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}

    assert complete("worker", "show", "g", **env) == expected.split()


def test_silent_server_delays_a_shell_for_a_second(complete: Callable[..., list[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # It accepts connections and never responds: a request of a command would fail after thirty seconds.
        assert (
            complete("vault", "show", "", tries=1, RUNQY_SERVER_URL=f"http://127.0.0.1:{silent.getsockname()[1]}") == []
        )


@pytest.mark.parametrize("env", [{"RUNQY_API_KEY": "wrong"}, {"RUNQY_SERVER_URL": "http://127.0.0.1:1"}])
def test_errors_offer_nothing_and_are_silent(complete: Callable[..., list[str]], env: dict[str, str]) -> None:
    assert complete("vault", "show", "", tries=1, **env) == []


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_by_the_printed_script(url: str, tmp_path: Path) -> None:
    runqy = tmp_path / "runqy"
    runqy.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from runqy.cli.main import main; main()' \"$@\"\n")
    runqy.chmod(0o755)
    script = """
        eval "$(runqy --show-completion bash)"
        COMP_WORDS=(runqy vault show a) COMP_CWORD=3
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            $(complete -p runqy | sed 's/.*-F \\([^ ]*\\) .*/\\1/') runqy
            [ "${COMPREPLY[*]}" ] && break
        done
        echo "${COMPREPLY[@]}"
    """
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    env |= {"RUNQY_SERVER_URL": url, "RUNQY_API_KEY": KEY}

    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("api-keys\n", "")
