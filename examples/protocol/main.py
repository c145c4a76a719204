"""A child process that speaks version 2 of the protocol (docs/reference/protocol.md), in plain Python.

A task does what its payload says: {"log": "text", "chunks": ["a", "b"], "sleep_s": 1.5, "result": 3} or
{"error": "away", "retry": true}. `exit` ends the process, `breaks_batch` fails a batch of several members as a whole.
"""

import json
import os
import sys
import threading

MAX_CONCURRENCY = 32
write_lock = threading.Lock()
cancellations = {}  # of the tasks that run, by their ids


def send(line):
    # One write for a line: two threads must not mix theirs.
    with write_lock:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def run(task):
    """Do what the payload says, and return the response."""
    task_id, payload = task["task_id"], task["payload"] or {}
    if "log" in payload:
        send({"task_id": task_id, "log": payload["log"]})
    chunks = payload.get("chunks", [])
    for number, chunk in enumerate(chunks, 1):
        send({"task_id": task_id, "chunk": chunk})
        send({"task_id": task_id, "progress": {"current": number, "total": len(chunks)}})
    is_cancelled = cancellations[task_id].wait(payload.get("sleep_s", 0))
    if "exit" in payload:
        os._exit(payload["exit"])
    return {
        "task_id": task_id,
        "result": payload.get("result"),  # null, and no error: the chunks are the result
        "error": "the task was cancelled" if is_cancelled else payload.get("error"),
        "retry": payload.get("retry", False),
    }


def respond(tasks, line):
    # Forgotten first: once the response is sent, the worker may send a task again.
    for task in tasks:
        del cancellations[task["task_id"]]
    send(line)


def run_task(task):
    respond([task], run(task))


def run_batch(members):
    """Respond for all members in one line."""
    is_broken = len(members) > 1 and any("breaks_batch" in (task["payload"] or {}) for task in members)
    # The worker then sends each once more, as a batch of one.
    failed = {"batch": [{"task_id": task["task_id"]} for task in members], "error": "the batch is broken"}
    respond(members, failed if is_broken else {"batch": [run(task) for task in members]})


if os.environ.get("RUNQY_CHILD_PROTOCOL") != "2":
    sys.exit("This example needs a worker that speaks version 2 of the protocol.")
ready = {"status": "ready", "accepts": ["cancel", "concurrent", "stream"], "concurrency": MAX_CONCURRENCY}
if "batch" in sys.argv:
    ready["accepts"].append("batch")
    ready |= {"concurrency": 2, "batch": {"max_size": 16, "max_wait_ms": 20}}
send(ready)
for text in sys.stdin:
    line = json.loads(text)
    if "control" in line:
        if event := cancellations.get(line["task_id"]):
            event.set()
        continue
    members = line.get("batch", [line])
    cancellations.update({task["task_id"]: threading.Event() for task in members})
    target = run_batch if "batch" in line else run_task
    threading.Thread(target=target, args=[members if "batch" in line else line]).start()
