"""Measures how soon all is well after a fault."""

import time

from soak.checker import ENDED
from soak.load import Load
from soak.stack import Stack

GIVEN_UP_S = 120.0


def measure_recovery(stack: Stack, load: Load, *, queue: str = "canary") -> tuple[float, float]:
    """Return after how many seconds a task is accepted, and after how many it is done."""
    client = stack.client(timeout_s=3)
    began_s = time.monotonic()
    (task_id,) = load.create(client, "canary", queue=queue, patience_s=GIVEN_UP_S) or [""]
    accepted_s = time.monotonic() - began_s
    while task_id and time.monotonic() - began_s < GIVEN_UP_S:
        info = client.send("GET", f"/queue/{task_id}?wait=2").content.get("info", {})
        if info.get("state") in ENDED:
            break
        time.sleep(0.05)
    client.close()
    return accepted_s, time.monotonic() - began_s
