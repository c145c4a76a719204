"""Print as JSON how many of our files a request passes, and how many calls go from one of them to another.

Run with the environment of a stack. Each request is sent a few times before, so that it loads and caches nothing.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import django
from django.test import Client

ROOT = f"{Path(__file__).parents[3]}/"
WARM_UP = 3


def main() -> None:
    django.setup()
    client = Client(headers={"Authorization": f"Bearer {os.environ['RUNQY_API_KEY']}", "Host": "localhost"})

    def send(method: str, path: str, body: Any) -> int:
        status: int = client.generic(method, path, json.dumps(body), content_type="application/json").status_code
        return status

    send("POST", "/api/vaults", {"name": "bench"})
    requests = {
        "POST /queue/add": lambda: send("POST", "/queue/add", {"queue": "unserved", "data": {}}),
        "PUT of a vault entry": lambda: send("PUT", "/api/vaults/bench/entries/A", {"value": "x"}),
        "POST /worker/register": lambda: send("POST", "/worker/register", {"queue": "unserved", "worker_id": "w1"}),
    }
    sys.stdout.write(json.dumps({what: _count(request) for what, request in requests.items()}))


def _count(send: Callable[[], int]) -> dict[str, int]:
    """Return status, files and calls between files of one request."""
    for _ in range(WARM_UP):
        send()
    files: set[str] = set()
    moves = 0

    def see(frame: FrameType, event: str, _: Any) -> None:
        nonlocal moves
        name = frame.f_code.co_filename
        if event != "call" or not _is_ours(name):
            return
        files.add(name)
        caller = frame.f_back
        while caller is not None and not _is_ours(caller.f_code.co_filename):
            caller = caller.f_back
        moves += caller is not None and caller.f_code.co_filename not in (name, __file__)

    sys.setprofile(see)
    try:
        status = send()
    finally:
        sys.setprofile(None)
    return {"status": status, "files": len(files - {__file__}), "moves": moves}


def _is_ours(filename: str) -> bool:
    return filename.startswith(ROOT) and "/.venv/" not in filename


if __name__ == "__main__":
    main()
