"""Form data and errors of the admin pages of queues."""

from typing import Any

from django.test import Client

from queues.models import Queue, QueueSource
from queues.operations import save_queue
from tests.queues.samples import spec

LIST = "/admin/queues/queue/"
ADD = f"{LIST}add/"


def rows(name: str, *given: dict[str, Any]) -> dict[str, Any]:
    """Return the form data of rows."""
    sent = {f"{name}-TOTAL_FORMS": len(given), f"{name}-INITIAL_FORMS": 0}
    return sent | {f"{name}-{index}-{cell}": value for index, row in enumerate(given) for cell, value in row.items()}


ROWS = ("vaults", "input", "output")
FORM = {
    "name": "mail",
    "is_enabled": "on",
    "priority": "5",
    "mode": "one_shot",
    "order": "strict",
    "git_url": "https://h/r.git",
    "branch": "main",
    "code_path": "",
    "startup_cmd": "python main.py",
    "startup_timeout_s": "0",
    "release": "manual",
    "rollout_first": "1",
    "rollout_bake_s": "1m",
    "rollout_max_unavailable": "25",
    "child_concurrency": "",
    "requirements_file": "requirements.txt",
    "env_vars": "A=1",
    "redis_storage": "on",
    "git_token": "",
    "max_retry": "4",
    **rows("sub_queues"),
    **rows("vaults"),
    **rows("input", {"name": "x", "type": ["int"], "default": "7"}),
    **rows("output"),
}


def saved(one=None) -> Queue:
    """Save a queue."""
    return save_queue(spec=one or spec("mail"), source=QueueSource.ADMIN)


def page_of(queue: Queue, what: str = "change") -> str:
    return f"{LIST}{queue.pk}/{what}/"


def sent_by(client: Client, queue: Queue) -> dict[str, Any]:
    """Return the form data of the unchanged page of a queue."""
    context = client.get(page_of(queue)).context
    form = context["adminform"].form
    sent: dict[str, Any] = {name: form[name].value() for name in form.fields if name not in ROWS}
    for name in ROWS:
        sent |= rows(name, *({cell.name: cell.value() for cell in row.cells()} for row in _rendered(form, name)))
    subs = context["inline_admin_formsets"][0].formset
    cells = ("id", "queue", "name", "priority", "position")
    sent |= rows("sub_queues", *({cell: row[cell].value() for cell in cells} for row in subs.initial_forms))
    sent["sub_queues-INITIAL_FORMS"] = len(subs.initial_forms)
    return {name: value for name, value in sent.items() if value is not None and value is not False}


def _rendered(form: Any, name: str) -> Any:
    return form.rows(name).rows.rendered()


def errors_of(response: Any) -> dict[str, list[str]]:
    """Return the errors by field, those of rows by `name-index-cell`."""
    form = response.context["adminform"].form
    found = {name: list(messages) for name, messages in form.errors.items()}
    formset = response.context["inline_admin_formsets"][0].formset
    if formset.non_form_errors():
        found["sub_queues"] = list(formset.non_form_errors())
    for rows_of in (formset, *(form.rows(name).rows for name in ROWS)):
        for row in rows_of.forms:
            found |= {f"{row.prefix}-{cell}": list(messages) for cell, messages in row.errors.items()}
    return found
