"""Write task handlers for runqy workers: `@task` on a function or coroutine, and `run()` at the end of the file."""

from runqy_sdk.context import Context
from runqy_sdk.errors import Fail, PayloadInvalid, Retry, TaskCancelled
from runqy_sdk.handlers import load, task
from runqy_sdk.runner import run

# The names of runqy-python: a plain handler moves over by its import alone.
RetryableError = Retry
run_once = run

__all__ = [
    "Context",
    "Fail",
    "PayloadInvalid",
    "Retry",
    "RetryableError",
    "TaskCancelled",
    "load",
    "run",
    "run_once",
    "task",
]
