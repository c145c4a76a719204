"""The commands `runqy queue`: show, create, pause, disable, watch and delete queues."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote

import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_configs, complete_queues
from runqy.cli.errors import ServerError
from runqy.cli.output import Listing
from runqy.cli.prompts import Force, confirm
from runqy.cli.values import read_number
from runqy.cli.watching import Interval, watch
from runqy.core.formats.names import spellings_of

app = new_group(
    "List, create, change, watch and delete queues.",
    examples="""
    runqy queue list
    runqy queue apply -f queues/ --diff
    runqy queue stats mail --from 2026-01-31T00:00:00Z --step 1h
    """,
)

Queue = Annotated[
    str, typer.Argument(help="Name of the queue or a sub-queue.", metavar="QUEUE", autocompletion=complete_queues)
]
Queues = Annotated[
    list[str],
    typer.Argument(help="Names of queues or sub-queues.", metavar="QUEUE...", autocompletion=complete_queues),
]
WholeQueue = Annotated[str, typer.Argument(help="Name of the queue.", metavar="QUEUE", autocompletion=complete_configs)]
WholeQueues = Annotated[
    list[str], typer.Argument(help="Names of queues.", metavar="QUEUE...", autocompletion=complete_configs)
]

_COUNTS = ("pending", "active", "scheduled", "retry", "archived", "completed")


def _count_workers(counts: Mapping[str, int]) -> str:
    """Return how many processes are ready, of how many: "2/3"."""
    return f"{counts['ready']}/{counts['ready'] + counts['not_ready']}"


_LISTING = Listing(
    columns=("queue", "health", "workers", *_COUNTS),
    wide=("paused", "priority", "is_enabled", "oldest_pending_secs", "processed_today", "failed_today", "memory_usage"),
    empty="There are no queues yet.",
    add_columns=lambda queue: {
        "workers": _count_workers(queue["worker_processes"]),
        "health": ", ".join(queue["health"]),
    },
)
_MEMBERS = (
    *("queue", "health", "parent", "source", "is_enabled", "paused", "paused_by", "paused_since", "priority", *_COUNTS),
    *("oldest_pending_secs", "processed_today", "failed_today", "processed", "failed", "memory_usage", "workers"),
    *("mode", "order", "git_url", "branch", "code_path", "startup_cmd", "child_concurrency"),
    *("vaults", "limits", "updated_at"),
)


@command(app, "list", examples="runqy queue list\nrunqy queue list -o wide\nrunqy queue list -o name")
def list_queues(session: Session) -> None:
    """List all queues with their tasks and workers.

    Each sub-queue has a line of its own.
    """
    session.out.listing(_LISTING, _read_queues(session))


@command(app, "show", examples="runqy queue show mail\nrunqy queue show inference_high -o yaml")
def show(session: Session, queue: Queue) -> None:
    """Show a queue.

    Its tasks, who paused it, its workers, and what it runs. Of a queue with sub-queues, list these; each can be shown
    by its own name.
    """
    found = _find_redis_queues(session, queue, lambda name: session.api.get(queue_path(name)))
    if len(found) > 1:
        session.out.listing(_LISTING, found)
        return
    detail = found[0]
    name = detail["parent"] or (detail["queue"] if detail["is_defined"] else "")
    config = session.api.get(_config_path(name)) if name else {}
    if session.out.is_document:
        session.out.document(detail | {"config": config or None})
        return
    shown = {**config.get("deployment", {}), **config, **detail, "health": ", ".join(detail["health"])}
    session.out.item(shown, _MEMBERS)


@command(
    app,
    "create",
    examples="""
    runqy queue create mail --git-url https://github.com/example/mail.git --startup-cmd "python main.py"
    runqy queue create inference --git-url … --startup-cmd … --sub-queue high:10 --sub-queue low:3
    """,
)
def create(  # noqa: PLR0913 (each is an option of the command)
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the queue.", metavar="NAME")],
    *,
    git_url: Annotated[str, typer.Option("--git-url", metavar="URL", help="URL of the git repository.")],
    startup_cmd: Annotated[str, typer.Option("--startup-cmd", metavar="COMMAND", help="Command that starts the code.")],
    branch: Annotated[str, typer.Option("--branch", metavar="BRANCH", help="Branch or tag.")] = "main",
    code_path: Annotated[str, typer.Option("--code-path", metavar="FOLDER", help="Folder of the repository.")] = "",
    mode: Annotated[str, typer.Option("--mode", metavar="MODE", help="long_running or one_shot.")] = "long_running",
    priority: Annotated[
        int, typer.Option("--priority", metavar="NUMBER", help="Priority among the queues of a worker.")
    ] = 1,
    sub_queue: Annotated[
        list[str] | None, typer.Option("--sub-queue", metavar="NAME:PRIORITY", help="A sub-queue; repeatable.")
    ] = None,
    vault: Annotated[
        list[str] | None,
        typer.Option("--vault", metavar="VAULT", help="A vault whose entries the code gets; repeatable."),
    ] = None,
    git_token: Annotated[str, typer.Option("--git-token", metavar="vault://VAULT/KEY", help="Token for git.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Update the queue if it exists.")] = False,
) -> None:
    """Create a queue. Use `runqy queue apply` for what these options do not set."""
    deployment: dict[str, Any] = {"git_url": git_url, "branch": branch, "startup_cmd": startup_cmd, "mode": mode}
    given = {"code_path": code_path, "vaults": vault, "git_token": git_token}
    deployment |= {member: value for member, value in given.items() if value}
    body: dict[str, Any] = {"name": name, "priority": priority, "deployment": deployment}
    if sub_queue:
        body["sub_queues"] = [_parse_sub_queue(text) for text in sub_queue]
    path = f"/api/cli/configs{'?force=true' if force else ''}"
    response = session.api.post(path, body)
    outcome = "updated" if "updated" in response["message"] else "created"
    session.out.result(response, f"{response['queue']['queue']}: {outcome}", name=response["queue"]["queue"])


@command(app, "pause", examples="runqy queue pause mail")
def pause(session: Session, queues: Queues) -> None:
    """Pause queues.

    They accept tasks, and workers get none. The name of a queue with sub-queues means all of them.
    """
    _switch(session, queues, "pause")


@command(app, "unpause", examples="runqy queue unpause mail")
def unpause(session: Session, queues: Queues) -> None:
    """Let workers get the tasks of paused queues again."""
    _switch(session, queues, "unpause")


@command(app, "enable", examples="runqy queue enable mail")
def enable(session: Session, queues: WholeQueues) -> None:
    """Let disabled queues accept tasks and workers again."""
    _switch(session, queues, "enable")


@command(app, "disable", examples="runqy queue disable mail")
def disable(session: Session, queues: WholeQueues) -> None:
    """Disable queues.

    They reject new tasks, and their workers stop.
    """
    _switch(session, queues, "disable")


@command(app, "delete", examples="runqy queue delete mail\nrunqy queue delete mail --force")
def delete(
    session: Session,
    queues: WholeQueues,
    *,
    ignore_missing: Annotated[
        bool, typer.Option("--ignore-missing", help="Succeed if a queue does not exist.")
    ] = False,
    force: Force = False,
) -> None:
    """Delete queues with all their tasks.

    Results and everything else of them in Redis are deleted too.
    """
    confirm(lambda: f"Delete {', '.join(describe_queues(_read_queues(session), queues))}?", force=force)
    for queue in queues:
        try:
            response = session.api.delete(f"{_config_path(queue)}?force=true")
        except ServerError as error:
            if not ignore_missing or error.code != "queue_not_found":
                raise
            session.out.result({"queue": queue, "message": "does not exist"}, f"{queue} does not exist", name=queue)
            continue
        is_later = "being deleted" in response["message"]
        session.out.result(response, response["message"] if is_later else f"{queue}: deleted", name=queue)


def describe_queues(statuses: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Return each queue with the number of its tasks, as in "mail (12 tasks)"."""
    totals = dict.fromkeys(names, 0)
    for status in statuses:
        for name in _names_of(status) & totals.keys():
            totals[name] += status["size"]
    return [f"{name} ({total:,} task{'' if total == 1 else 's'})" for name, total in totals.items()]


@command(app, "watch", examples="runqy queue watch\nrunqy queue watch inference --interval 5")
def watch_queues(
    session: Session,
    queues: Annotated[
        list[str] | None,
        typer.Argument(help="By default all queues.", metavar="[QUEUE]...", autocompletion=complete_queues),
    ] = None,
    *,
    interval: Interval = 2.0,
) -> None:
    """Show the queues again and again until Ctrl-C.

    In a pipe there is a line for each queue that has changed.
    """

    def read() -> list[dict[str, Any]]:
        found = _read_queues(session)
        known = {name for each in found for name in _names_of(each)}
        for name in queues or ():
            if name not in known:
                session.api.get(queue_path(name))  # the server's error lists the names that exist
        return [each for each in found if not queues or _names_of(each) & {*queues}]

    watch(session, _LISTING, read, interval_s=interval)


@command(app, "stats", examples="runqy queue stats mail\nrunqy queue stats inference_high --step 1h -o wide")
def stats(
    session: Session,
    queue: Queue,
    *,
    since: Annotated[
        str, typer.Option("--from", metavar="TIME", help="Start, such as 2026-01-31T12:00:00Z. Default: 1 hour ago.")
    ] = "",
    until: Annotated[str, typer.Option("--to", metavar="TIME", help="End. Default: now.")] = "",
    step: Annotated[
        str, typer.Option("--step", metavar="DURATION", help="Length of one line: 1m, 1h, 24h. Default: by the period.")
    ] = "",
) -> None:
    """Show what became of tasks over time.

    Each line has a step of time: how many tasks ended in which way, how long they waited and ran, and the backlog.
    """
    given: dict[str, Any] = {"from": since, "to": until, "step": step}
    found = session.api.get(f"{queue_path(queue)}/stats", **{name: value for name, value in given.items() if value})
    session.out.listing(_POINTS, found["points"])


@command(app, "release-scheduled", examples="runqy queue release-scheduled\nrunqy queue release-scheduled mail")
def release_scheduled(
    session: Session,
    queues: Annotated[
        list[str] | None,
        typer.Argument(help="By default all queues.", metavar="[QUEUE]...", autocompletion=complete_queues),
    ] = None,
) -> None:
    """Move scheduled tasks to retry, for the Go system.

    It runs tasks from there. They stay due at the same time.
    """
    for queue in queues or [each["queue"] for each in _read_queues(session)]:
        path, count = f"{queue_path(queue)}/tasks/release?state=scheduled", 0
        # Each request releases a limited number of tasks.
        while affected := session.api.post(path)["affected"]:
            count += affected
        session.out.result({"queue": queue, "affected": count}, f"{queue}: {count} tasks released", name=queue)


def _switch(session: Session, queues: Sequence[str], action: str) -> None:
    def switch(name: str) -> dict[str, Any]:
        return session.api.post(f"{queue_path(name)}/{action}")

    for queue in queues:
        for response in _find_redis_queues(session, queue, switch, lists=False):
            name = response["queue"]
            session.out.result(response, f"{name}: {response['message'].removeprefix('queue ')}", name=name)


def _find_redis_queues(
    session: Session, name: str, call: Callable[[str], dict[str, Any]], *, lists: bool = True
) -> list[dict[str, Any]]:
    """Return what `call` returns for a Redis queue, or else for the sub-queues of a queue. Raise ServerError.

    With `lists` it is the list's entries of these.
    """
    try:
        return [call(name)]
    except ServerError as error:
        if error.code != "queue_not_found":
            raise
        subs = [each for each in _read_queues(session) if each["parent"] == name]
        if not subs:
            raise
    return subs if lists else [call(each["queue"]) for each in subs]


def _names_of(status: Mapping[str, Any]) -> set[str]:
    """Return the names that mean a Redis queue: its own, in both spellings, and that of its queue."""
    queue = status["parent"] or status["queue"]
    return {queue, *spellings_of(status["queue"], queue)}


def _read_queues(session: Session) -> list[dict[str, Any]]:
    queues: list[dict[str, Any]] = session.api.get("/api/cli/queues")["queues"]
    return queues


def _percentile_columns(point: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{kind}_{name}_ms": value for kind in ("wait", "run") for name, value in (point[f"{kind}_ms"] or {}).items()
    }


_POINTS = Listing(
    columns=("start", "enqueued", "completed", "retried", "failed", "wait_p50_ms", "run_p50_ms", "backlog"),
    wide=(
        *("started", "canceled", "timed_out", "expired", "lost", "dropped"),
        *("wait_p95_ms", "run_p95_ms", "run_p99_ms", "backlog_max"),
    ),
    empty="There are no statistics for this time.",
    add_columns=_percentile_columns,
)


def _parse_sub_queue(text: str) -> dict[str, Any]:
    name, _, priority = text.rpartition(":")
    number = read_number(priority)
    if not name or isinstance(number, str):
        raise typer.BadParameter(f"{text!r} is not NAME:PRIORITY, such as high:10.", param_hint="--sub-queue")
    return {"name": name, "priority": number}


def queue_path(queue: str) -> str:
    return f"/api/cli/queues/{quote(queue, safe='')}"


def _config_path(queue: str) -> str:
    return f"/api/cli/configs/{quote(queue, safe='')}"
