"""The task code of the soak: it follows the instructions of the payload, and records each run in a file.

It speaks the worker's protocol itself, because it needs the task's id. It is copied into a repository, so it imports
nothing of this project.
"""

import json
import os
import signal
import sys
import time
import uuid
from typing import Any

JOURNAL = os.open(os.environ["SOAK_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
FOLDERS = os.getcwd().split(os.sep)
WORKER = FOLDERS[FOLDERS.index("workers") + 1]
LOAD_S = float(os.environ.get("SOAK_LOAD_S", "0"))


def note(event: str, **values: object) -> None:
    process = {"worker": WORKER, "pid": os.getpid(), "commit": os.environ["RUNQY_COMMIT"]}
    os.write(JOURNAL, json.dumps({"event": event, "at": time.time(), **process, **values}).encode() + b"\n")


def load() -> None:
    """Take as long as a model does, and note with which environment."""
    env = f"{os.environ.get('SOAK_SECRET')} {os.environ.get('SOAK_ROUND')}"
    note("loading", env=env)
    time.sleep(LOAD_S)
    note("loaded", env=env)


def handle(task: dict[str, Any]) -> tuple[dict[str, str] | None, str | None, bool]:
    """Return what the result has besides the run (None without a result), the error, and whether to retry."""
    payload = task["payload"]
    do, seconds = payload["do"], payload.get("s", 0)
    if do == "fail":
        return None, "this task fails", False
    if do == "retry" or (do == "flaky" and task["retry_count"] < payload["failures"]):
        return None, "this task fails for now", True
    if do == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "block":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            sum(range(1_000_000))  # calls of C without a pause: no signal is handled, and nothing is read
    elif do == "log":
        print_lines(payload["lines_a_second"], seconds)
    elif do == "stream":
        stream(task["task_id"], payload["chunks"], payload["chunks_a_second"])
        return None, None, False
    elif do == "flood":
        flood(task["task_id"], payload["bytes"], payload["chunk_bytes"])
    elif do == "result":
        return {"text": "x" * payload["bytes"]}, None, False
    elif seconds:
        time.sleep(seconds)
    return {}, None, False


def print_lines(rate: int, seconds: float) -> None:
    began = time.monotonic()
    line = b"a line of a task with much output, with the number %d\n"
    for tenth in range(int(seconds * 10)):
        os.write(2, b"".join(line % number for number in range(rate // 10)))
        time.sleep(max(began + (tenth + 1) / 10 - time.monotonic(), 0))


def stream(task_id: str, count: int, rate: int) -> None:
    """Stream the numbers from 0."""
    began = time.monotonic()
    for number in range(count):
        os.write(1, b'{"task_id":"%b","chunk":%d}\n' % (task_id.encode(), number))
        time.sleep(max(began + (number + 1) / rate - time.monotonic(), 0))


def flood(task_id: str, total: int, chunk_bytes: int) -> None:
    """Stream so many bytes in chunks of a size, as fast as the worker reads."""
    block = b"x" * min(chunk_bytes, 1 << 20)
    with open(1, "wb", closefd=False) as stdout:
        for _ in range(total // chunk_bytes):
            stdout.write(b'{"task_id":"%b","chunk":"' % task_id.encode())
            for _ in range(chunk_bytes // len(block)):
                stdout.write(block)
            stdout.write(b'"}\n')


def main() -> None:
    if LOAD_S:
        load()
    print('{"status":"ready","accepts":["stream"]}', flush=True)
    for line in sys.stdin:
        task, run = json.loads(line), uuid.uuid4().hex
        note("start", id=task["task_id"], run=run, retries=task["retry_count"])
        result, error, is_retried = handle(task)
        outcome = "ok" if error is None else "retry" if is_retried else "fail"
        note("end", id=task["task_id"], run=run, outcome=outcome)
        response = {
            "task_id": task["task_id"],
            "result": None if result is None else {"run": run, "worker": WORKER, **result},
            "error": error,
            "retry": is_retried,
        }
        print(json.dumps(response, separators=(",", ":")), flush=True)


main()
