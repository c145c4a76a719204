"""Fire schedules in processes of their own: killed (SIGKILL) at a chosen step, or several at once.

`python -m tests.support.schedule_runners inserted|enqueued|stored` runs a pass that is killed once it has inserted the
fires, enqueued the tasks, or marked the fires. `race` runs passes in three processes at once.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import django

from tests.support.database import database_variables

RACING = 3


def run_in_processes(step: str) -> None:
    env = os.environ | {"DJANGO_SETTINGS_MODULE": "runqy.settings"} | database_variables()
    command = [sys.executable, "-m", "tests.support.schedule_runners", step]
    subprocess.run(command, env=env, check=True, timeout=150)


def _run(step: str) -> None:
    from runqy.redis_connection import get_broker  # noqa: PLC0415 (Django is set up)
    from schedules import runner  # noqa: PLC0415

    def killed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if step == "enqueued":
                call(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        return wrapper

    if step != "race":
        name = "forget_enqueued_ids" if step == "stored" else "enqueue_intents"
        setattr(runner, name, killed(getattr(runner, name)))
    broker = get_broker()
    broker.measure_clock()
    for _ in range(20 if step == "race" else 1):
        runner.run_schedules(broker)


def _fork(step: str) -> int:
    child = os.fork()
    if not child:
        _run(step)
        os._exit(0)
    return child


if __name__ == "__main__":
    django.setup()
    is_race = sys.argv[1] == "race"
    for child in [_fork(sys.argv[1]) for _ in range(RACING if is_race else 1)]:
        _, status = os.waitpid(child, 0)
        if status if is_race else not os.WIFSIGNALED(status):
            sys.exit(f"status {status}")
