"""Which task a command line means. The Go command line gives the queue before the id; the id alone is enough."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from runqy.cli.completion import complete_queues
from runqy.cli.errors import CliError, ExitCode

if TYPE_CHECKING:
    from runqy.cli.client import Client

QueueAndId = Annotated[
    list[str],
    typer.Argument(
        help="Id of the task. The queue may stand before it.", metavar="[QUEUE] ID", autocompletion=complete_queues
    ),
]


def parse_task(words: Sequence[str]) -> tuple[str, str]:
    """Return the queue, empty if it is not given, and the id. Raise CliError."""
    match words:
        case [task_id]:
            return "", task_id
        case [queue, task_id]:
            return queue, task_id
    raise CliError("Give the id of one task, with or without its queue before it.", ExitCode.USAGE)


def find_path(api: "Client", words: Sequence[str]) -> str:
    """Return the path of a task's actions. It contains the task's queue, which may have to be read from the server."""
    queue, task_id = parse_task(words)
    queue = queue or api.get(result_path(task_id))["info"]["queue"]
    return f"/api/cli/queues/{quote(queue, safe='')}/tasks/{quote(task_id, safe='')}"


def result_path(task_id: str) -> str:
    """Return the path at which a task is found by its id alone."""
    return f"/queue/{quote(task_id, safe='')}"
