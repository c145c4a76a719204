"""One secret goes every way into vaults and to a worker; then everything that exists is searched for it."""

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx2
import pytest

from tests.stack.serving import Serve, Worker
from tests.stack.stack import make_queue
from tests.support.environment import ADMIN_KEY, WORKER_KEY
from tests.support.processes import command_lines
from tests.support.secret_leaks import Canary
from tests.support.servers import ValkeyServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

PASSWORD = "a-password-of-tests"
MOST_PAGES = 80
VAULTS = ("by-api", "by-admin")

HASHES = """\
import hashlib, json, os, sys
print(json.dumps({"status": "ready"}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    result = {n: hashlib.sha256(os.environ.get(n, "").encode()).hexdigest() for n in task["payload"]["names"]}
    print(json.dumps({"task_id": task["task_id"], "result": result, "error": None, "retry": False}), flush=True)
"""


class Page(HTMLParser):
    """What a browser makes of a page: its links, and the fields of its forms as they would be sent."""

    def __init__(self, text: str) -> None:
        """Read a page."""
        super().__init__()
        self.links: set[str] = set()
        self.fields: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take up links and fields."""
        attributes = dict(attrs)
        if tag == "a" and attributes.get("href"):
            self.links.add(attributes["href"] or "")
        if tag in ("input", "textarea", "select") and attributes.get("name"):
            self.fields[attributes["name"] or ""] = attributes.get("value") or ""


@pytest.fixture
def canary() -> Canary:
    """Return the secret that is searched for."""
    return Canary()


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    """Return a server that keeps all that was ever written to it, readable."""
    files = ("--appendonly", "yes", "--rdbcompression", "no", "--auto-aof-rewrite-percentage", "0")
    server = ValkeyServer(*files).start()
    yield server
    server.stop()


@pytest.fixture
def serve(tmp_path: Path, valkey: ValkeyServer) -> Iterator[Serve]:
    """Return a running server with web and maintenance, which logs as much as it can; it has a queue and an admin."""
    vaults = f"vaults: [{', '.join(VAULTS)}]"
    files = make_queue(tmp_path, code=HASHES, settings=vaults)
    (tmp_path / "password").write_text(PASSWORD)
    options = {"REDIS_URL": valkey.url, "DATABASE_URL": "", "RUNQY_LOG_LEVEL": "debug", "QUEUE_WORKERS_DIR": str(files)}
    server = Serve(tmp_path, "--migrate", **options).until_ready()
    subprocess.run(
        [sys.executable, "-m", "runqy.manage", "ensure_admin", str(tmp_path / "password")],
        env=os.environ | options | {"RUNQY_HOME": str(server.home), "DATABASE_URL": _database(server)},
        check=True,
        capture_output=True,
    )
    yield server
    server.end()


def test_a_secret_is_nowhere_but_with_the_worker(
    canary: Canary, serve: Serve, valkey: ValkeyServer, tmp_path: Path
) -> None:
    with _watched_command_lines(canary), _client(serve, canary) as client:
        values = _plant(client, canary)
        worker = Worker(serve, "echo", tmp_path)
        assert _hashes(client, *values) == {name: _hash(value) for name, value in values.items()}

        values["BY_API"] = canary.secret("sk-changed-")
        assert client.put("/api/vaults/by-api/entries/BY_API", json={"value": values["BY_API"]}).status_code == 200
        eventually(lambda: _hashes(client, "BY_API") == {"BY_API": _hash(values["BY_API"])}, within_s=120)
        assert canary.core in _registered(serve), "it would not have been noticed"

        _refused(client, canary)
        _read_api(client)
        pages = _crawl(client)
        assert len(pages) >= 15
        assert worker.stop() == 0

    canary.look("\n".join(_dump(serve)).encode(), "database dump")
    _look_into_redis(canary, valkey)
    serve.end()
    canary.look_into([tmp_path, valkey.folder])
    assert canary.leaks == []


def _plant(client: httpx2.Client, canary: Canary) -> dict[str, str]:
    """Keep a secret in vaults in each way there is; return the values by their names."""
    values = {name: canary.secret(f"sk-{name}-") for name in ("BY_API", "BY_ADMIN", "PASTED")}
    assert client.post("/api/vaults", json={"name": "by-api"}).status_code == 201
    entry = {"key": "BY_API", "value": values["BY_API"]}
    assert client.post("/api/vaults/by-api/entries", json=entry).status_code == 200

    login = Page(client.get("/admin/login/").text).fields | {"username": "admin", "password": PASSWORD}
    assert client.post("/admin/login/?next=/admin/", data=login).url.path == "/admin/"
    form = Page(client.get("/admin/vaults/vault/add/").text).fields
    form = {name: value for name, value in form.items() if "__prefix__" not in name and not name.startswith("_")}
    form |= {"name": "by-admin", "description": "d", "entries-TOTAL_FORMS": "1", "_save": "Save"}
    form |= {"entries-0-key": "BY_ADMIN", "entries-0-value": values["BY_ADMIN"], "entries-0-is_secret": "on"}
    rendered = client.post("/admin/vaults/vault/add/", data=form | {"name": "not a name"})
    assert rendered.url.path == "/admin/vaults/vault/add/"
    saved = client.post("/admin/vaults/vault/add/", data=form)
    assert saved.url.path == "/admin/vaults/vault/", saved.text
    vault_page = next(link for link in sorted(Page(saved.text).links) if link.endswith("/change/"))
    pasting = f"{vault_page.removesuffix('change/')}bulk-edit/"
    lines = Page(client.get(pasting).text).fields | {"lines": f"PASTED='{values['PASTED']}'"}
    for pressed in ({"preview": "1"}, {"fragment": "1"}, {"apply": "1"}):
        assert client.post(pasting, data=lines | pressed).status_code == 200

    return values


def _refused(client: httpx2.Client, canary: Canary) -> None:
    """Send the secret in requests that are refused, in all ways there are."""
    value, entries = canary.secret(), "/api/vaults/by-api/entries"
    bodies: list[Any] = [
        {"key": "1BAD", "value": value},
        {"key": "PATH", "value": value},
        {"key": "A", "value": value * 3000},
        {"key": "A", "value": value + "\0"},
        {"key": "A", "value": [value]},
        {"key": "A", "value": value, "is_secret": value},
        {"key": "A", "value": value, "expected_version": value},
        {"key": "BY_API", "value": value, "expected_version": 0},
        {"value": value},
        [value],
        value,
    ]
    for body in bodies:
        assert client.post(entries, json=body).status_code in (400, 412)
    text = json.dumps({"key": "A", "value": value})
    for content in (text[:-1], text.encode("utf-16"), text.replace("canary", "\\ud800").encode()):
        headers = {"Content-Type": "application/json"}
        assert client.post(entries, content=content, headers=headers).status_code == 400
    assert client.post(entries, content=text, headers={"Content-Type": "text/plain"}).status_code in (400, 415, 200)
    assert client.post("/api/vaults/gone/entries", json={"key": "A", "value": value}).status_code == 404
    wrong = {"Authorization": "Bearer wrong"}
    assert client.post(entries, json={"key": "A", "value": value}, headers=wrong).status_code == 401


def _read_api(client: httpx2.Client) -> None:
    """Read all routes of the API without a parameter, and all about the vaults."""
    paths: list[str] = list(client.get("/swagger/doc.json").json()["paths"])
    for vault in VAULTS:
        about = [path.replace("{name}", vault) for path in paths if path.startswith("/api/vaults/{name}")]
        paths += [path.replace("{key}", vault.upper().replace("-", "_")) for path in about]
    for path in paths:
        if "{" not in path:
            client.get(path)


def _crawl(client: httpx2.Client) -> set[str]:
    """Visit the pages of the admin that links lead to."""
    seen: set[str] = set()
    waiting = ["/admin/", "/admin/vaults/vault/", "/admin/admin/logentry/", "/swagger/index.html"]
    while waiting and len(seen) < MOST_PAGES:
        path = waiting.pop(0)
        if path in seen or "logout" in path:
            continue
        response = client.get(path)
        seen.add(path)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            links = (urljoin(path, link) for link in Page(response.text).links)
            waiting += sorted(link for link in links if link.startswith("/admin/"))
    return seen


def _hashes(client: httpx2.Client, *names: str) -> dict[str, str]:
    """Have the worker return the hashes of some variables."""
    body = {"queue": "echo", "data": {"names": list(names)}}
    response = client.post("/queue/add", json=body, headers={"Prefer": "wait=60"})
    result: dict[str, str] = response.json()["info"]["result"]
    return result


def _registered(serve: Serve) -> str:
    """Return the response to a registration."""
    headers = {"Authorization": f"Bearer {WORKER_KEY}"}
    url = f"http://127.0.0.1:{serve.port}/worker/register"
    return httpx2.post(url, json={"queue": "echo"}, headers=headers, timeout=90).text


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


@contextmanager
def _client(serve: Serve, canary: Canary) -> Iterator[httpx2.Client]:
    """Return a client that checks every response; to the API it is an administrator."""

    def look(response: httpx2.Response) -> None:
        where = f"response of {response.request.method} {response.request.url.path} ({response.status_code})"
        canary.look(response.read() + repr(response.headers).encode(), where)

    with httpx2.Client(
        base_url=f"http://127.0.0.1:{serve.port}",
        headers={"Authorization": f"Bearer {ADMIN_KEY}"},
        event_hooks={"response": [look]},
        follow_redirects=True,
        timeout=90,
    ) as client:
        yield client


@contextmanager
def _watched_command_lines(canary: Canary) -> Iterator[None]:
    """Look at the command line of every process of the machine, again and again."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            for line in command_lines():
                canary.look(line, "command line")

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()


def _database(serve: Serve) -> str:
    """Return the URL of the server's database."""
    (file,) = serve.home.glob("*.sqlite3")
    return f"sqlite:///{file}"


def _dump(serve: Serve) -> list[str]:
    """Return all tables as SQL."""
    with closing(sqlite3.connect(urlsplit(_database(serve)).path)) as database:
        return list(database.iterdump())


def _look_into_redis(canary: Canary, valkey: ValkeyServer) -> None:
    """Look at every key, and let the server write its snapshot; its files are looked through later."""
    with valkey.client() as client:
        for key in client.scan_iter(count=1000):
            canary.look(key + (client.dump(key) or b""), f"Redis key {key!r}")
        client.save()
    assert (valkey.folder / "dump.rdb").stat().st_size > 1000
