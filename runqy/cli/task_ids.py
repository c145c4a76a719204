"""Which task a command line means. Its id is enough; ids that other programs made may exist in several queues."""

from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from runqy.cli.completion import complete_queues

if TYPE_CHECKING:
    from runqy.cli.client import Client

TaskId = Annotated[str, typer.Argument(help="Id of the task.", metavar="ID")]
OfQueue = Annotated[
    str,
    typer.Option(
        "--queue", "-q", metavar="QUEUE", help="Queue of the task. Default: by its id.", autocompletion=complete_queues
    ),
]


def find_path(api: "Client", task_id: str, queue: str = "") -> str:
    """Return the path of a task's actions. It contains the task's queue, which may have to be read from the server."""
    queue = queue or api.get(result_path(task_id))["info"]["queue"]
    return f"/api/cli/queues/{quote(queue, safe='')}/tasks/{quote(task_id, safe='')}"


def result_path(task_id: str) -> str:
    """Return the path at which a task is found by its id alone."""
    return f"/queue/{quote(task_id, safe='')}"
