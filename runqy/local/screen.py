"""Says on the terminal what the stack is doing, and in the end where everything is."""

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
from runqy.broker.worker_records import WorkerRecord, WorkerState
from runqy.local.deployments import describe_reason, describe_state, is_ready
from runqy.local.instance import Instance

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


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(text, markup=False)


def complain(text: str) -> None:
    """Print to stderr why there is no going on."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def show_overview(
    instance: Instance,
    queues: Sequence[QueueSpec],
    records: Mapping[str, WorkerRecord],
    *,
    folder: Path,
    others: Sequence[str] = (),
) -> None:
    """Print where everything is, the queues of a folder with their states, and lines to paste.

    `others` are the queues that the server knows beside them.
    """
    with console:  # written at once: whoever sees the first line can read the last
        console.print(
            f"\n[bold]runqy is running.[/bold] Ctrl-C stops it; {escape(_shown(instance.home))} keeps everything.\n"
        )
        _print_columns(_places(instance))
        console.print()
        if queues:
            _print_columns(
                [("[dim]queue", "[dim]mode", "[dim]worker"), *(_row(one, records.get(one.name)) for one in queues)]
            )
            _print_reasons(instance, queues, records)
        else:
            say(f"There is no queue file in {_shown(folder)}: put one there (docs/queue-files.md), and start again.")
        if others:
            say(f"\nNot served by this worker, so that their tasks wait: {', '.join(others)}.")
        if ready := [queue for queue in queues if is_ready(records.get(queue.name))]:
            console.print("\nPut a task on a queue, and read it with the id in the answer:\n")
            say(f"  {enqueue_line(instance, ready)}")
            say(f'  curl -H "Authorization: Bearer {_key_words(instance)}" "{instance.url}/queue/<id>?wait=10"')
        console.print()


def enqueue_line(instance: Instance, queues: Sequence[QueueSpec]) -> str:
    """Return a curl line for one of the queues, with sample values for what its payload schema asks for."""
    queue = next((queue for queue in queues if queue.name in _FIRST_TASKS), queues[0])
    redis_queue = queue.redis_queues(settings.RUNQY_SUBQUEUE_SEPARATOR)[0][0]
    fields = [field for field in queue.input if field.required] or queue.input
    data = _FIRST_TASKS.get(queue.name, {field.name: _sample(field) for field in fields})
    body = json.dumps({"queue": redis_queue, "data": data}, separators=(",", ":"))
    return f'curl -H "Authorization: Bearer {_key_words(instance)}" -d {shlex.quote(body)} {instance.url}/queue/add'


def _sample(field: PayloadField) -> object:
    """Return a value that a field may have: its default if it has one."""
    return _SAMPLES[field.type[0]] if field.default_json is None else json.loads(field.default_json)


def _print_reasons(instance: Instance, queues: Sequence[QueueSpec], records: Mapping[str, WorkerRecord]) -> None:
    """Print why queues are not served as they should be, and where more about it stands."""
    reasons = {queue.name: describe_reason(records.get(queue.name)) for queue in queues}
    missing = [queue.name for queue in queues if queue.name not in records and queue.is_enabled]
    for name, reason in reasons.items():
        if reason:
            say(f"\n{name}: {reason}")
    if missing or any(reasons.values()):
        say(
            f"\nMore about it is in {_shown(instance.log('worker'))}. The worker goes on trying; it finds a new commit."
        )


def _places(instance: Instance) -> list[tuple[str, ...]]:
    """Return the URLs, and where the secrets are; on the first start also what they are."""
    api_key = "as set in RUNQY_API_KEY" if settings.RUNQY_API_KEY else _secret(instance, "api_key")
    return [
        ("API", instance.url),
        ("Swagger", f"{instance.url}/swagger/index.html"),
        ("Admin", f"{instance.url}/admin/"),
        ("API key", api_key),
        ("Admin login", f"admin, password {_secret(instance, 'admin_password')}"),
        ("Logs", escape(_shown(instance.home / "logs"))),
    ]


def _secret(instance: Instance, name: str) -> str:
    """Return where a generated secret is, and the first time the secret itself."""
    path = instance.home / name
    place = f"in {escape(_shown(path))}"
    return f"{path.read_text('ascii').strip()} ({place})" if instance.is_first_start else place


def _row(queue: QueueSpec, record: WorkerRecord | None) -> tuple[str, ...]:
    """Return a queue's Redis queues, its mode, and what the worker does about it."""
    names = ", ".join(name for name, _ in queue.redis_queues(settings.RUNQY_SUBQUEUE_SEPARATOR))
    colour = _COLOURS.get(record.state, "yellow") if record else "yellow"
    return names, queue.mode, f"[{colour}]{escape(describe_state(record))}"


def _print_columns(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows in columns, without breaking what is to be copied."""
    cells = [[Text.from_markup(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        for cell, width in zip(row[:-1], widths, strict=False):
            cell.pad_right(width + 3 - len(cell))
        console.print(Text("  ").append_text(Text().join(row)))


def _key_words(instance: Instance) -> str:
    """Return what stands for the API key in a shell's double quotes."""
    if settings.RUNQY_API_KEY:
        return "$RUNQY_API_KEY" if os.environ.get("RUNQY_API_KEY") else "$KEY"
    return f"$(cat {shlex.quote(_shown(instance.home / 'api_key'))})"


def _shown(path: Path) -> str:
    """Return a path as short as it is still right in this folder."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
