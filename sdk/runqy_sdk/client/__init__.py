"""Use a runqy server: enqueue tasks, wait for results, follow tasks. Needs the extra `client`.

`Client` is for ordinary code, `AsyncClient` for coroutines.
"""

try:
    import httpx2  # noqa: F401  # pyright: ignore[reportUnusedImport] (the rest needs it)
except ImportError:
    raise ImportError("clients need the extra `client`: pip install 'runqy-sdk[client]'") from None

from runqy_sdk.client import api_errors
from runqy_sdk.client.aio import AsyncClient
from runqy_sdk.client.errors import (
    ApiError,
    ClientError,
    ConfigurationError,
    ServerUnreachable,
    StreamRestarted,
    TaskDeleted,
    TaskFailed,
    WaitTimeout,
)
from runqy_sdk.client.models import Attempt, Event, Job, Logs, Outcome, Progress, Task, TaskOptions
from runqy_sdk.client.sync import Client

__all__ = [
    "ApiError",
    "AsyncClient",
    "Attempt",
    "Client",
    "ClientError",
    "ConfigurationError",
    "Event",
    "Job",
    "Logs",
    "Outcome",
    "Progress",
    "ServerUnreachable",
    "StreamRestarted",
    "Task",
    "TaskDeleted",
    "TaskFailed",
    "TaskOptions",
    "WaitTimeout",
    "api_errors",
]
