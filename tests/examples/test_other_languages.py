"""The children in other languages of docs/how-to/other-languages.md, each in at most 40 lines."""

import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.docs.blocks import read_titled
from tests.examples.child import EXAMPLES
from tests.support.servers import free_port

pytestmark = pytest.mark.slow

COMMANDS = {"node": ["node", "main.mjs"], "go": ["go", "run", "."], "shell": ["sh", "main.sh"]}
NEEDS = {"node": ["node"], "go": ["go"], "shell": ["jq", "curl"]}
LANGUAGES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(not all(map(shutil.which, NEEDS[name])), reason=f"needs {' and '.join(NEEDS[name])}"),
    )
    for name in COMMANDS
]


class Site(ThreadingHTTPServer):
    """Serves every page but /missing: /together when two requests for it have come, /late when the test is over."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.both = threading.Barrier(2)
        self.is_over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        if self.path == "/together":
            self.server.both.wait()
        if self.path == "/late":
            self.server.is_over.wait()
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.is_over.set()
        server.both.abort()
        server.shutdown()
        thread.join()


@contextmanager
def running(language: str, protocol: str = "") -> Iterator["subprocess.Popen[str]"]:
    environment = {**os.environ, "RUNQY_CHILD_PROTOCOL": protocol}
    with subprocess.Popen(
        COMMANDS[language],
        cwd=EXAMPLES / language,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def send(process: "subprocess.Popen[str]", **line: object) -> None:
    # As msgspec writes it: characters beyond ASCII stay as they are.
    process.stdin.write(json.dumps(line, ensure_ascii=False) + "\n")
    process.stdin.flush()


def read(process: "subprocess.Popen[str]") -> dict:
    return json.loads(process.stdout.readline())


def sums(*urls: str) -> dict[str, str]:
    return {url: hashlib.sha256(url[url.index("/", 8) :].encode()).hexdigest() for url in urls}


@pytest.mark.parametrize("language", LANGUAGES)
def test_tasks_succeed_fail_and_ask_for_a_retry(language, site):
    first, second = f"{site.url}/a", f"{site.url}/b?c=*"

    with running(language) as process:
        ready = read(process)
        send(process, task_id="good", type="task", payload={"urls": [first, second], "note": "a\u2028b"}, attempt=1)
        good = [read(process) for _ in range(3)]
        send(process, task_id="refused", payload={"urls": [f"{site.url}/missing"]})
        refused = read(process)
        send(process, task_id="away", payload={"urls": [f"http://127.0.0.1:{free_port()}/"]})
        away = read(process)
        send(process, task_id="wrong", payload={"urls": 3})
        wrong = read(process)
        process.stdin.close()
        assert process.wait() == 0

    assert ready["status"] == "ready"
    assert set(ready.get("accepts", [])) <= {"cancel"}
    assert [line["progress"] for line in good[:2]] == [{"current": 1, "total": 2}, {"current": 2, "total": 2}]
    assert good[2] == {"task_id": "good", "result": sums(first, second)}
    assert "404" in refused["error"]
    assert [(line["task_id"], bool(line["error"]), line["retry"]) for line in (refused, away, wrong)] == [
        ("refused", True, False),
        ("away", True, True),
        ("wrong", True, False),
    ]


@pytest.mark.parametrize("language", LANGUAGES[:1])
def test_tasks_run_at_once_and_one_is_cancelled(language, site):
    with running(language, protocol="2") as process:
        ready = read(process)
        for task_id, page in [("late", "late"), ("a", "together"), ("b", "together")]:
            send(process, task_id=task_id, payload={"urls": [f"{site.url}/{page}"]})
        lines = [read(process) for _ in range(4)]
        send(process, control="cancel", task_id="late")
        cancelled = read(process)
        process.stdin.close()
        assert process.wait() == 0

    assert ready == {"status": "ready", "accepts": ["concurrent"], "concurrency": 32}
    assert {line["task_id"] for line in lines if "result" in line} == {"a", "b"}
    assert (cancelled["task_id"], bool(cancelled["error"])) == ("late", True)


def test_the_page_has_the_examples_in_at_most_40_lines_of_protocol():
    page = read_titled("docs/how-to/other-languages.md")
    names = ["node/main.mjs", "go/main.go", "go/handle.go", "go/go.mod", "shell/main.sh"]
    protocol = [text for name, text in page.items() if "/main." in name]

    assert page == {f"languages/{name}": (EXAMPLES / name).read_text() for name in names}
    assert max(text.count("\n") for text in protocol) <= 40
