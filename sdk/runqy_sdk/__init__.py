"""Write task handlers for runqy workers: `@task` or `@batch` on a function, and `run()` at the end of the file."""

from runqy_sdk.context import Context
from runqy_sdk.errors import Fail, PayloadInvalid, Retry, TaskCancelled
from runqy_sdk.handlers import batch, load, task
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
    "batch",
    "load",
    "run",
    "run_once",
    "task",
]
