"""The output of `runqy up`: progress, then URLs, queues and commands to paste."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from queues.definitions import FieldType, PayloadField, QueueSpec
from runqy import settings
from runqy.broker.workers.records import WorkerRecord, WorkerState
from runqy.stack.deployments import describe_reason, describe_state, is_ready
from runqy.stack.instance import Instance

console = Console(highlight=False, soft_wrap=True)

_COLOURS = {WorkerState.READY: "green", WorkerState.START_FAILED: "red"}
_FIRST_TASKS: dict[str, dict[str, object]] = {"sentiment": {"text": "What a lovely film!"}}
_SAMPLES: dict[FieldType, object] = {
    FieldType.STRING: "a text",
    FieldType.INT: 1,
    FieldType.FLOAT: 1.5,
    FieldType.BOOL: True,
    FieldType.ARRAY: [],
    FieldType.OBJECT: {},
}


def info(text: str) -> None:
    console.print(text, markup=False)


def error(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def print_overview(
    instance: Instance,
    queues: Sequence[QueueSpec],
    records: Mapping[str, WorkerRecord],
    *,
    folder: Path,
    others: Sequence[str] = (),
) -> None:
    """Print the URLs, the queues of a folder with their states, and commands to paste.

    `others` are queues of the server that this worker does not serve.
    """
    with console:  # written at once: a program that reads the first line can read them all
        home = escape(_display_path(instance.home))
        console.print(f"\n[bold]runqy is running.[/bold] Ctrl-C stops it. Its data is in {home}.\n")
        _print_columns(_endpoints(instance))
        console.print()
        if queues:
            _print_columns(
                [("[dim]queue", "[dim]mode", "[dim]worker"), *(_row(one, records.get(one.name)) for one in queues)]
            )
            _print_reasons(instance, queues, records)
        else:
            folder_name = _display_path(folder)
            info(f"There are no queue files in {folder_name}. Add one, then run: runqy config reload")
        if others:
            info(f"\nNot served by this worker: {', '.join(others)}. Their tasks stay pending.")
        if ready := [queue for queue in queues if is_ready(records.get(queue.name))]:
            console.print("\nEnqueue a task and wait up to 10 s for its result:\n")
            info(f"  {enqueue_line(instance, ready)}")
        console.print()


def enqueue_line(instance: Instance, queues: Sequence[QueueSpec]) -> str:
    """Return a curl command for one of the queues, with sample values for the fields of its payload schema."""
    queue = next((queue for queue in queues if queue.name in _FIRST_TASKS), queues[0])
    redis_queue = queue.redis_queues(settings.RUNQY_SUBQUEUE_SEPARATOR)[0][0]
    fields = [field for field in queue.input if field.required] or queue.input
    data = _FIRST_TASKS.get(queue.name, {field.name: _sample(field) for field in fields})
    body = json.dumps({"queue": redis_queue, "data": data}, separators=(",", ":"))
    key = _shell_api_key(instance)
    return f'curl -H "Authorization: Bearer {key}" -d {shlex.quote(body)} "{instance.url}/queue/add?wait=10"'


def _sample(field: PayloadField) -> object:
    return _SAMPLES[field.type[0]] if field.default_json is None else json.loads(field.default_json)


def _print_reasons(instance: Instance, queues: Sequence[QueueSpec], records: Mapping[str, WorkerRecord]) -> None:
    reasons = {queue.name: describe_reason(records.get(queue.name)) for queue in queues}
    missing = [queue.name for queue in queues if queue.name not in records and queue.is_enabled]
    for name, reason in reasons.items():
        if reason:
            info(f"\n{name}: {reason}")
    if missing or any(reasons.values()):
        log = _display_path(instance.log("worker"))
        info(f"\nDetails are in {log}. The worker keeps retrying, also with new commits.")


def _endpoints(instance: Instance) -> list[tuple[str, ...]]:
    """Return the URLs and the files of the secrets. The first start shows the secrets too."""
    api_key = "as set in RUNQY_API_KEY" if settings.RUNQY_API_KEY else _secret(instance, "api_key")
    return [
        ("API", instance.url),
        ("Swagger", f"{instance.url}/swagger/index.html"),
        ("Admin", f"{instance.url}/admin/"),
        ("API key", api_key),
        ("Admin login", f"admin, password {_secret(instance, 'admin_password')}"),
        ("Metrics", escape(_metrics_line(instance))),
        ("Logs", escape(_display_path(instance.home / "logs"))),
    ]


def _secret(instance: Instance, name: str) -> str:
    path = instance.home / name
    location = f"in {escape(_display_path(path))}"
    return f"{path.read_text('ascii').strip()} ({location})" if instance.is_first_start else location


def _row(queue: QueueSpec, record: WorkerRecord | None) -> tuple[str, ...]:
    names = ", ".join(name for name, _ in queue.redis_queues(settings.RUNQY_SUBQUEUE_SEPARATOR))
    colour = _COLOURS.get(record.state, "yellow") if record else "yellow"
    return names, queue.mode, f"[{colour}]{escape(describe_state(record))}"


def _print_columns(rows: Sequence[tuple[str, ...]]) -> None:
    cells = [[Text.from_markup(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        for cell, width in zip(row[:-1], widths, strict=False):
            cell.pad_right(width + 3 - len(cell))
        console.print(Text("  ").append_text(Text().join(row)))


def _shell_api_key(instance: Instance) -> str:
    """Return the API key as a shell expression, for use in double quotes."""
    if settings.RUNQY_API_KEY:
        return "$RUNQY_API_KEY" if os.environ.get("RUNQY_API_KEY") else "$KEY"
    return f"$(cat {shlex.quote(_display_path(instance.home / 'api_key'))})"


def _metrics_line(instance: Instance) -> str:
    if settings.RUNQY_METRICS_PUBLIC:
        return f"curl {instance.url}/metrics"
    token = f"$(cat {shlex.quote(_display_path(instance.home / 'metrics_token'))})"
    if settings.RUNQY_METRICS_TOKEN:
        token = "$RUNQY_METRICS_TOKEN"  # noqa: S105 (a shell expression)
    return f'curl -H "Authorization: Bearer {token}" {instance.url}/metrics'


def _display_path(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
