"""The payload of a task of Django: the import path of the function, its arguments, and the options of the call."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from typing import Any, cast

from django.apps import apps
from django.utils.module_loading import import_string

from runqy_sdk.django.interface import InvalidTask, Task

Payload = dict[str, Any]


def make_payload(task: Task[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Payload:
    return {
        "task": task.module_path,
        "args": args,
        "kwargs": kwargs,
        "backend": task.backend,
        "queue_name": task.queue_name,
        "priority": task.priority,
        "run_after": task.run_after.isoformat() if task.run_after else None,
    }


def read_task(payload: Any) -> Task[..., Any]:
    """Return the task of a payload, with the options of its call. Raise InvalidTask."""
    try:
        found, run_after = find_task(payload["task"]), payload["run_after"]
        return found.using(
            priority=payload["priority"],
            queue_name=payload["queue_name"],
            backend=payload["backend"],
            run_after=datetime.fromisoformat(run_after) if run_after else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidTask(f"The payload is not of a task of Django: {error!r}") from error


def find_task(path: str) -> Task[..., Any]:
    """Return the task that an import path names. Raise InvalidTask.

    Whoever can enqueue chooses the path. To import a module is to run it, so others than the project's stay unread.
    """
    module = path.rpartition(".")[0]
    if module not in sys.modules and module.partition(".")[0] not in _packages():
        raise InvalidTask(f"{path!r} is not in a package of INSTALLED_APPS, or that of the settings.")
    try:
        found = import_string(path)
    except ImportError as error:
        raise InvalidTask(f"{path!r} cannot be imported: {error}") from error
    if not isinstance(found, Task):
        raise InvalidTask(f"{path!r} is no task: mark the function with @task.")
    return cast("Task[..., Any]", found)


def _packages() -> set[str]:
    modules = [os.environ.get("DJANGO_SETTINGS_MODULE", ""), *(config.name for config in apps.get_app_configs())]
    return {module.partition(".")[0] for module in modules}
