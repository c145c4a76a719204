"""What the tests of queues in the admin send to its pages, and read from them."""

from typing import Any

from django.apps import apps
from django.contrib.auth.models import Group, User
from django.test import Client

from queues.admin.forms import shown_values
from queues.models import Queue, Source
from queues.operations import save_queue
from runqy.staff.roles import grant_roles
from tests.queues.samples import spec

LIST = "/admin/queues/queue/"
ADD = f"{LIST}add/"


def rows(name: str, *given: dict[str, Any]) -> dict[str, Any]:
    """Return what a form sends for rows."""
    sent = {f"{name}-TOTAL_FORMS": len(given), f"{name}-INITIAL_FORMS": 0}
    return sent | {f"{name}-{place}-{cell}": value for place, row in enumerate(given) for cell, value in row.items()}


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
    "startup_timeout_secs": "60",
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


def as_role(role: str) -> Client:
    """Return the browser of somebody of a role."""
    grant_roles(apps)  # emptying the database after a test takes what migrations have made
    user = User.objects.create_user(f"the-{role}", is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


def saved(one=None) -> Queue:
    """Save a queue."""
    return save_queue(spec=one or spec("mail"), source=Source.ADMIN)


def page_of(queue: Queue, what: str = "change") -> str:
    return f"{LIST}{queue.pk}/{what}/"


def sent_by(client: Client, queue: Queue) -> dict[str, Any]:
    """Return what the page of a queue sends when nothing is changed on it."""
    form = client.get(page_of(queue)).context["adminform"].form
    values = shown_values(queue.as_spec()) | {"version": form["version"].value()}
    sent: dict[str, Any] = {}
    for name, value in values.items():
        sent |= rows(name, *value) if name in ("sub_queues", "vaults", "input", "output") else {name: value}
    return {name: value for name, value in sent.items() if value is not None and value is not False}


def errors_of(answer: Any) -> dict[str, list[str]]:
    """Return the messages beside fields, those of rows by `name-place-cell`."""
    form = answer.context["adminform"].form
    found = {name: list(messages) for name, messages in form.errors.items()}
    for name in ("sub_queues", "vaults", "input", "output"):
        for row in form.rows(name).rows.forms:
            found |= {f"{row.prefix}-{cell}": list(messages) for cell, messages in row.errors.items()}
    return found
