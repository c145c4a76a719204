"""The roles of staff: groups that a migration makes, and what each of them may do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_READ = (
    *("queues.queue", "tasks.task", "workers.worker", "vaults.vault", "vaults.vaultentry"),
    *("accounts.apikey", "audit.auditrecord", "auth.user", "auth.group"),
)
_VERBS = ("add", "change", "delete")


def _may(*verbs: str, models: Iterable[str]) -> frozenset[str]:
    """Return permissions as `app.verb_model`, each verb for each model."""
    places = [model.split(".") for model in models]
    return frozenset(f"{app}.{verb}_{model}" for app, model in places for verb in verbs)


_VIEW = _may("view", models=_READ)
_PAYLOADS = frozenset({"tasks.view_payload"})
_OPERATE = frozenset({"queues.pause_queue"}) | _may(
    "enqueue", *("run", "cancel", "archive", "delete"), models=["tasks.task"]
)
_CONFIGURE = _may(*_VERBS, models=["queues.queue", "vaults.vault", "vaults.vaultentry"]) | {"queues.pause_queue"}
_ADMINISTER = (
    _may("add", "change", models=["accounts.apikey"])
    | _may(*_VERBS, models=["auth.user", "auth.group"])
    | {"vaults.export_vault"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaffRole:
    """What one kind of staff may do."""

    name: str
    sentence: str
    """Tells staff what the role is for."""
    permissions: frozenset[str]


ROLES = (
    StaffRole(
        name="viewer",
        sentence="Reads everything but secret values; changes nothing.",
        permissions=_VIEW,
    ),
    StaffRole(
        name="operator",
        sentence="Also pauses queues, and tries, runs, cancels, archives and deletes tasks.",
        permissions=_VIEW | _PAYLOADS | _OPERATE,
    ),
    StaffRole(
        name="configurator",
        sentence="Also defines queues and keeps vaults; leaves tasks alone.",
        permissions=_VIEW | _PAYLOADS | _CONFIGURE,
    ),
    StaffRole(
        name="admin",
        sentence="Does everything, API keys and users included.",
        permissions=_VIEW | _PAYLOADS | _OPERATE | _CONFIGURE | _ADMINISTER,
    ),
)

_NAMES: Mapping[str, str] = {
    "queues.pause_queue": "Can pause and resume queues",
    "tasks.view_payload": "Can view payloads and results",
    "tasks.enqueue_task": "Can put tasks on queues",
    "tasks.run_task": "Can run tasks",
    "tasks.cancel_task": "Can cancel tasks",
    "tasks.archive_task": "Can archive tasks",
    "vaults.export_vault": "Can export vaults with all values",
}
"""What permissions are called that Django does not make by itself; like those, without the app's help."""


_SPELLED = {"apikey": "API key", "auditrecord": "audit record", "vaultentry": "vault entry"}
"""Models whose names are more than one word."""


def grant_roles(apps: Any) -> None:
    """Make the groups, and give each exactly its permissions.

    Content types and permissions are made here where they are missing, for Django makes those of an app only after
    all migrations have run.
    """
    groups = apps.get_model("auth", "Group").objects
    for role in ROLES:
        group, _ = groups.get_or_create(name=role.name)
        group.permissions.set([_permission(apps, permission) for permission in sorted(role.permissions)])


def _permission(apps: Any, permission: str) -> Any:
    """Return the row of a permission."""
    app, codename = permission.split(".")
    verb, model = codename.split("_")
    content_type, _ = apps.get_model("contenttypes", "ContentType").objects.get_or_create(
        app_label=app, model="task" if permission == "tasks.view_payload" else model
    )
    name = _NAMES.get(permission, f"Can {verb} {_SPELLED.get(model, model)}")
    row, _ = apps.get_model("auth", "Permission").objects.update_or_create(
        content_type=content_type, codename=codename, defaults={"name": name}
    )
    return row
