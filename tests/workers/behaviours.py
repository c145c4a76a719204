"""The code of the tests' task repository, which follows the instructions in a payload."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from runqy_python import RetryableError, load, run, run_once, task

if os.environ.get("START") == "crash":
    raise SystemExit("cannot import what is needed")


@load
def prepare():
    if os.environ.get("START") == "fail":
        raise ValueError("no model here")
    return {"loaded": True}


def wait(payload):
    Path(payload["started"]).write_text(str(os.getpid()))
    while not Path(payload["until"]).exists():
        time.sleep(0.01)
    return "waited"


def late_env(payload):
    wait(payload)
    return dict(os.environ)


def hang(payload):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Path(payload["started"]).write_text(str(os.getpid()))
    time.sleep(600)


def spawn(payload):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen(["sleep", "600"])
    apart = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path(payload["started"]).write_text(f"{os.getpid()} {grandchild.pid} {apart.pid}")
    time.sleep(600)


def garbage(_payload):
    os.write(1, b'\xff\xfe\x00 binary\n{not json}\n[1]\n"text"\n')
    print("printed")
    return "clean"


def broken(payload):
    os.write(1, payload["line"].encode() + b"\n")
    return "clean"


def fail(payload):
    raise ValueError(payload["text"])


def retry(payload):
    raise RetryableError(payload["text"])


def overflow(payload):
    os.write(1, b"x" * payload["bytes"] + b"\n")


def shout(payload):
    """Print lines, report progress if requested, and wait before the end if requested."""
    for line in payload["lines"]:
        print(line)
    for progress in payload.get("progress", ()):
        os.write(1, json.dumps({"progress": progress}).encode() + b"\n")
    if "until" in payload:
        wait(payload)
    if payload.get("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if payload.get("retries"):
        raise RetryableError("again")


def flood(payload):
    """Print a number of bytes in lines of 100."""
    for start in range(0, payload["bytes"], 100_000):
        os.write(2, b"".join(b"%099d\n" % (start + n * 100) for n in range(1000)))
    print("the end")


VERBS = {
    "env": lambda _: dict(os.environ),
    "pid": lambda _: os.getpid(),
    "cwd": lambda _: os.getcwd(),
    "fail": fail,
    "retry": retry,
    "die": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda _: os._exit(3),
    "wait": wait,
    "late_env": late_env,
    "hang": hang,
    "spawn": spawn,
    "garbage": garbage,
    "overflow": overflow,
    "broken": broken,
    "big": lambda payload: "x" * payload["bytes"],
    "nan": lambda _: float("nan"),
    "pause": lambda payload: time.sleep(payload["s"]),
    "shout": shout,
    "flood": flood,
    "log": lambda payload: print(payload["text"]),
}


@task
def handle(payload, context):
    assert context["loaded"]
    if isinstance(payload, dict) and "do" in payload:
        return VERBS[payload["do"]](payload)
    return payload


if os.environ.get("MODE") == "one_shot":
    run_once()
else:
    run()
