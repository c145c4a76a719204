"""A child in plain Python that streams what each task asks for. It takes one task at a time."""

import json
import os
import sys
import threading
import time
from queue import Queue

tasks: "Queue[dict]" = Queue()
canceled: set[str] = set()


def read() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("control") == "cancel":
            canceled.add(request["task_id"])
        else:
            tasks.put(request)
    os._exit(0)


def send(task_id: str, **members: object) -> None:
    sys.stdout.write(json.dumps({"task_id": task_id, **members}) + "\n")
    sys.stdout.flush()


def run(task_id: str, payload: dict) -> object:
    for line in payload.get("lines", ()):
        sys.stdout.write(line.replace("$ID", task_id).replace("$PID", str(os.getpid())) + "\n")
    for text in payload.get("log", ()):
        send(task_id, log=text)
    for chunk in payload.get("chunks", ()):
        send(task_id, chunk=chunk)
    number = 0
    # Counts, each number a chunk, until a file exists, or for ever.
    while "count" in payload and task_id not in canceled and not os.path.exists(payload["count"]):
        send(task_id, chunk=number)
        number += 1
        time.sleep(payload.get("pause_s", 0))
    if "long" in payload:
        send(task_id, chunk="x" * payload["long"])
    flood = json.dumps({"task_id": task_id, "chunk": "x" * 30_000}) + "\n"
    while payload.get("flood") and task_id not in canceled:
        sys.stdout.write(flood)
    return payload.get("result")


threading.Thread(target=read, daemon=True).start()
print(
    json.dumps({"status": "ready", "accepts": json.loads(os.environ.get("ACCEPTS", '["cancel", "stream"]'))}),
    flush=True,
)
while True:
    task = tasks.get()
    send(task["task_id"], result=run(task["task_id"], task["payload"]))
