"""An installation with something of everything, filled by one release and read by a later one."""

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psycopg
import pytest

from tests.stack.stack import Stack
from tests.support.postgresql import PostgresqlServer
from tests.support.waiting import wait_until

CODE = """\
import json, os, sys
print(json.dumps({"status": "ready"}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    error = task["payload"].get("error")
    result = {"said": task["payload"].get("say"), "greeting": os.environ.get("GREETING")}
    print(json.dumps({"task_id": task["task_id"], "result": result, "error": error, "retry": False}), flush=True)
"""
SETTINGS = "vaults: [greetings]"
VALUE = "hello-from-1.0"
DUMP = "postgresql.sql"
FACTS = "facts.json"
KEPT_FOREVER = {"RUNQY_HISTORY_DAYS": "3650"}
_REMADE = {"deployments", "logs", "metrics", "run", "db.sqlite3-shm"}


def fill(stack: Stack) -> dict[str, str]:
    """Fill a running installation through its API, and return what `check` needs to find it again."""

    def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        return stack.ask(path, json.dumps(body).encode())

    post("/api/vaults", {"name": "greetings"})
    post("/api/vaults/greetings/entries", {"key": "GREETING", "value": VALUE, "is_secret": False})
    client = post("/api/keys", {"name": "a-client", "role": "client", "queues": ["echo"]})
    revoked = post("/api/keys", {"name": "a-former-client", "role": "client"})
    stack.ask(f"/api/keys/{revoked['api_key']['id']}", method="DELETE")
    wait_until(lambda: run_task(stack, {"say": "warm"})["result"]["greeting"] == VALUE)
    completed = run_task(stack, {"say": "needle in the haystack"})
    archived = run_task(stack, {"say": "no", "error": "ValueError: it broke"})
    wait_until(lambda: len(find_runs(stack, "needle")) == 1 and len(find_runs(stack, "broke")) == 1)
    scheduled = post("/queue/add", {"queue": "echo", "data": {"say": "later"}, "process_at": "2099-12-31T23:59:59Z"})
    stack.ask("/api/cli/queues/echo/pause", b"{}")
    return {
        "completed": completed["id"],
        "archived": archived["id"],
        "scheduled": scheduled["info"]["id"],
        "pending": stack.enqueue({"say": "kept"}),
        "client_key": client["key"],
        "revoked_key": revoked["key"],
        "audit": str(max(audit_numbers(stack))),
    }


def run_task(stack: Stack, payload: dict[str, Any]) -> dict[str, Any]:
    """Return a task that has ended."""
    return stack.read(stack.enqueue(payload))


def audit_numbers(stack: Stack) -> list[int]:
    """Return the numbers of the audit records."""
    return [row["number"] for row in stack.ask("/api/audit?limit=1000")["records"]]


def find_runs(stack: Stack, text: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = stack.ask(f"/api/runs?queue=echo&text={text}")["runs"]
    return runs


def save(stack: Stack, facts: dict[str, str], archive: Path, server: PostgresqlServer | None) -> None:
    """Write what a stopped installation keeps into one file."""
    (stack.home / FACTS).write_text(json.dumps(facts))
    if server is not None:
        (stack.home / DUMP).write_text(_dump(server))
    with tarfile.open(archive, "w:gz") as tar:
        for path in stack.home.iterdir():
            if path.name not in _REMADE:
                tar.add(path, arcname=path.name)


def restore(archive: Path, home: Path, server: PostgresqlServer | None) -> dict[str, str]:
    """Unpack an installation, and return its facts."""
    home.mkdir(mode=0o700)
    with tarfile.open(archive) as tar:
        tar.extractall(home, filter="data")
    if server is not None:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute((home / DUMP).read_bytes())
    facts: dict[str, str] = json.loads((home / FACTS).read_text())
    return facts


def _dump(server: PostgresqlServer) -> str:
    command = ["pg_dump", "--no-owner", "--inserts", server.url]
    dump = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return "\n".join(line for line in dump.splitlines() if not line.startswith("\\"))  # commands of psql's


def check(stack: Stack, facts: dict[str, str]) -> None:
    """Check that an upgraded installation, which runs, has what `fill` made."""
    entry = stack.ask("/api/vaults/greetings/entries/GREETING")
    assert VALUE in entry.values()
    assert stack.ask(f"/queue/{facts['pending']}", key=facts["client_key"])["info"]["state"] == "pending"
    with pytest.raises(HTTPError, match="401"):
        stack.ask(f"/queue/{facts['pending']}", key=facts["revoked_key"])
    assert stack.ask(f"/queue/{facts['scheduled']}")["info"]["state"] == "scheduled"
    assert [run["task_id"] for run in find_runs(stack, "needle")] == [facts["completed"]]
    assert [run["task_id"] for run in find_runs(stack, "broke")] == [facts["archived"]]

    stack.ask("/api/cli/queues/echo/unpause", b"{}")

    assert stack.read(facts["pending"])["result"] == {"said": "kept", "greeting": VALUE}
    recorded = int(facts["audit"].partition(":")[0])  # of 1.0 with a digest
    wait_until(lambda: max(audit_numbers(stack)) > recorded)  # unpausing
    assert recorded in audit_numbers(stack)
