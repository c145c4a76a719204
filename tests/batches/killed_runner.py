"""Run the maintenance of batches in processes that are killed (SIGKILL) at a chosen step.

`python -m tests.batches.killed_runner NAME:before|after...` forks a process for each argument, which is killed before
or after its first call of this function of `batches.runner`.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import django

from tests.support.database import database_variables


def kill_runners(*steps: str) -> None:
    """Run a process for each step until it is killed, and end their claims."""
    env = os.environ | {"DJANGO_SETTINGS_MODULE": "runqy.settings"} | database_variables()
    subprocess.run([sys.executable, "-m", "tests.batches.killed_runner", *steps], env=env, check=True, timeout=150)


def _run(name: str, moment: str) -> None:
    from batches import runner  # noqa: PLC0415
    from batches.models import Batch  # noqa: PLC0415
    from runqy.redis_connection import get_broker  # noqa: PLC0415

    def killed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if moment == "after":
                call(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        return wrapper

    Batch.objects.filter(busy_until__isnull=False).update(busy_until=get_broker().now())
    setattr(runner, name, killed(getattr(runner, name)))
    runner.BatchWork().run(get_broker())


if __name__ == "__main__":
    django.setup()
    for argument in sys.argv[1:]:
        child = os.fork()
        if not child:
            _run(*argument.split(":"))
            os._exit(3)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"the process for {argument} was not killed")
