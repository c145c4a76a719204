"""The task code of the parts about the history: tasks do nothing, and write how each attempt ended into a journal.

It is copied into a repository, so it imports nothing of this project. A line of the journal has the task's id and the
first letter of the outcome.
"""

import json
import os
import sys

JOURNAL = os.open(os.environ["SOAK_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def main() -> None:
    print('{"status":"ready"}', flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        payload, outcome, error = task["payload"], "c", None
        if payload["do"] != "ok":
            error = f"ValueError: order {payload['order_id']}: amount must be positive"
            outcome = "f" if payload["do"] == "fail" else "r" if task["retry_count"] == 0 else "c"
            error = None if outcome == "c" else error
        os.write(JOURNAL, f"{task['task_id']} {outcome}\n".encode())
        result = {"ok": True} if error is None else None
        response = {"task_id": task["task_id"], "result": result, "error": error, "retry": outcome == "r"}
        print(json.dumps(response, separators=(",", ":")), flush=True)


main()
