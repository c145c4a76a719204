"""Apply bulk actions in processes that are killed (SIGKILL) at a chosen step.

`python -m tests.support.killed_bulk_runner before|after|stored NUMBER...` forks a process for each bulk action that is
killed before or after its first call that changes Redis, or once it has stored which copies it has added.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import django

from tests.support.database import database_variables


def kill_runners(step: str, *numbers: int) -> None:
    """Apply each bulk action in a process of its own until it is killed, and end their leases."""
    env = os.environ | {"DJANGO_SETTINGS_MODULE": "runqy.settings"} | database_variables()
    command = [sys.executable, "-m", "tests.support.killed_bulk_runner", step, *map(str, numbers)]
    subprocess.run(command, env=env, check=True, timeout=150)

    from tasks.models import BulkAction  # noqa: PLC0415 (Django is not set up in the process itself)

    BulkAction.objects.filter(pk__in=numbers).update(leased_until=None)  # instead of waiting for LEASE_S


def _run(step: str, number: int) -> None:
    from runqy.redis_connection import get_broker  # noqa: PLC0415
    from tasks import bulk_runner  # noqa: PLC0415

    def killed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if step == "after":
                call(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        return wrapper

    if step != "stored":
        bulk_runner.COPIES_PER_STEP = 1
    for name in ("forget_enqueued_ids",) if step == "stored" else ("apply_in_state", "enqueue_intents"):
        setattr(bulk_runner, name, killed(getattr(bulk_runner, name)))
    runner = bulk_runner.BulkRunner.lease(get_broker(), number)
    assert runner is not None
    runner.run(until=time.monotonic() + 600)


if __name__ == "__main__":
    django.setup()
    for argument in sys.argv[2:]:
        child = os.fork()
        if not child:
            _run(sys.argv[1], int(argument))
            os._exit(3)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"bulk action {argument}: not killed, status {status}")
