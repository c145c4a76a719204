"""A child of the tests that does what payloads say, many tasks at once or in batches."""

import json
import os
import sys
import threading
import time

lock = threading.Lock()


def send(line):
    with lock:
        os.write(1, (line if isinstance(line, str) else json.dumps(line)).encode() + b"\n")


def answer(task):
    result = task["task_id"]
    if task["payload"] == "nameless":
        return {"result": result * 250, "task_id": task["task_id"]}
    if task["payload"] == "unread":
        return {"protocol_error": "the line is not JSON"}
    return {"task_id": task["task_id"], "result": result * 250 if task["payload"] == "long" else result}


def wait_for(file):
    while not os.path.exists(file):
        time.sleep(0.01)


def work(task):
    do, task_id = task["payload"], task["task_id"]
    with open(f"{task_id}.started", "w") as started:
        started.write(str(os.getpid()))
    if do in ("wait", "stubborn", "die"):
        wait_for(f"{task_id}.until")
    if do == "die":
        os._exit(4)
    if do == "print":
        os.write(2, b"printed by " + task_id.encode() + b"\n")
    if do == "progress":
        send({"task_id": task_id, "progress": {"current": 1}})
        send({"progress": {"current": 2}})
    if do == "foreign":
        send({"task_id": "stranger", "result": 1})
    send(f'{{"task_id":"{task_id}","resu' if do == "truncated" else answer(task))
    if do == "twice":
        send(answer(task))


def change(answers, do):
    """Change the answers to a batch as its payloads say."""
    if "swapped" in do:
        answers.reverse()
    if "missing" in do:
        del answers[-1]
    if "nan" in do:
        answers[0]["result"] = float("nan")
    if "foreign" in do:
        answers.insert(0, {"task_id": "stranger", "result": 1})


def respond(answers, do):
    """Return the lines of the response to a batch."""
    if "fail" in do and len(answers) > 1:
        return [{"batch": answers[:1], "error": "out of memory"}]
    if "fail always" in do or "nameless" in do:
        return [{"batch": [], "error": "out of memory", "retry": "nameless" not in do}]
    if "late" in do and len(answers) > 1:
        return ['{"batch":[],"error":"out of memory"}\n' + json.dumps(answers[1])]  # one write
    if "truncated" in do and len(answers) > 1:
        return [json.dumps({"batch": answers})[:-20]]
    change(answers, do)
    if "singly" in do:
        return answers
    return [{"batch": answers}] * (2 if "twice" in do else 1)


def work_on_batch(batch):
    do = {task["payload"] for task in batch}
    with open("batches", "a") as file:
        file.write(" ".join(task["task_id"] for task in batch) + "\n")
    if "wait" in do:
        wait_for("until")
    if "die" in do:
        os._exit(4)
    for line in respond([answer(task) for task in batch], do):
        send(line)


os.chdir(os.environ.get("FOLDER", "."))
print(os.environ["READY"], flush=True)
for text in sys.stdin:
    line = json.loads(text)
    if "batch" in line:
        threading.Thread(target=work_on_batch, args=[line["batch"]], daemon=True).start()
    elif "control" in line:
        if not os.path.exists(f"{line['task_id']}.stubborn"):
            send({"task_id": line["task_id"], "error": "cancelled", "retry": False})
    else:
        if line["payload"] == "stubborn":
            open(f"{line['task_id']}.stubborn", "w").close()
        threading.Thread(target=work, args=[line], daemon=True).start()
