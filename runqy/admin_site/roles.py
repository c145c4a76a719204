"""Staff roles: groups with permissions, created by a migration."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_READ = (
    *("queues.queue", "tasks.task", "schedules.schedule", "batches.batch", "workers.worker"),
    *("vaults.vault", "vaults.vaultentry"),
    *("accounts.apikey", "audit.auditrecord", "auth.user", "auth.group", "alerts.alert", "alerts.alertrule"),
    "webhooks.endpoint",
)
_VERBS = ("add", "change", "delete")


def _may(*verbs: str, models: Iterable[str]) -> frozenset[str]:
    """Return permissions as `app.verb_model`, each verb for each model."""
    names = [model.split(".") for model in models]
    return frozenset(f"{app}.{verb}_{model}" for app, model in names for verb in verbs)


_VIEW = _may("view", models=_READ)
_PAYLOADS = frozenset({"tasks.view_payload"})
_RUN_SCHEDULES = frozenset({"schedules.run_schedule"})
_OPERATE = (
    _RUN_SCHEDULES
    | frozenset({"queues.pause_queue", "alerts.acknowledge_alert", "workers.stop_worker"})
    | _may("enqueue", *("run", "cancel", "archive", "delete"), models=["tasks.task"])
)
_CONFIGURED = ("queues.queue", "vaults.vault", "vaults.vaultentry", "alerts.alertrule", "webhooks.endpoint")
_CONFIGURE = _may(*_VERBS, models=(*_CONFIGURED, "schedules.schedule")) | _RUN_SCHEDULES | {"queues.pause_queue"}
_ADMINISTER = _may("add", "change", models=["accounts.apikey"]) | _may(*_VERBS, models=["auth.user", "auth.group"])


@dataclass(frozen=True, slots=True, kw_only=True)
class StaffRole:
    """A role and its permissions."""

    name: str
    description: str
    """Shown where a role can be selected."""
    permissions: frozenset[str]


ROLES = (
    StaffRole(
        name="viewer",
        description="Read access to everything except secret values and payloads.",
        permissions=_VIEW,
    ),
    StaffRole(
        name="operator",
        description="Like viewer, with payloads; also pauses queues, acknowledges alerts, drains and stops workers, "
        "and enqueues, runs, cancels, archives and deletes tasks.",
        permissions=_VIEW | _PAYLOADS | _OPERATE,
    ),
    StaffRole(
        name="configurator",
        description="Like viewer, with payloads; also changes queues, vaults, alert rules and webhooks, but not tasks.",
        permissions=_VIEW | _PAYLOADS | _CONFIGURE,
    ),
    StaffRole(
        name="admin",
        description="Full access, including API keys and users.",
        permissions=_VIEW | _PAYLOADS | _OPERATE | _CONFIGURE | _ADMINISTER,
    ),
)

_NAMES: Mapping[str, str] = {
    "alerts.acknowledge_alert": "Can acknowledge and snooze alerts",
    "queues.pause_queue": "Can pause and resume queues",
    "workers.stop_worker": "Can drain, restart and stop workers",
    "schedules.run_schedule": "Can pause, unpause and trigger schedules",
    "tasks.view_payload": "Can view hidden payloads, results and errors",
    "tasks.enqueue_task": "Can enqueue tasks",
    "tasks.run_task": "Can run tasks",
    "tasks.cancel_task": "Can cancel tasks",
    "tasks.archive_task": "Can archive tasks",
    "tasks.delete_task": "Can delete tasks",
}
"""Names of the permissions that Django does not create for each model."""


_MODEL_NAMES = {
    "apikey": "API key",
    "auditrecord": "audit record",
    "alertrule": "alert rule",
    "endpoint": "webhook endpoint",
    "vaultentry": "vault entry",
}
"""Names of models that have more than one word."""


def create_role_groups(apps: Any) -> None:
    """Create the groups of the roles, each with exactly its permissions.

    Also create missing content types and permissions, since Django creates them only after all migrations.
    """
    groups = apps.get_model("auth", "Group").objects
    permissions = _permissions(apps, frozenset[str]().union(*(role.permissions for role in ROLES)))
    for role in ROLES:
        group, _ = groups.get_or_create(name=role.name)
        group.permissions.set([permissions[name] for name in sorted(role.permissions)])


def _permissions(apps: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return permissions by name, read in one query. Those that are missing or have another description are created."""
    rows = apps.get_model("auth", "Permission").objects.select_related("content_type")
    found = {(row.content_type.app_label, row.content_type.model, row.codename, row.name): row for row in rows}
    return {name: found.get(_columns(name)) or _permission(apps, name) for name in sorted(names)}


def _permission(apps: Any, permission: str) -> Any:
    app, model, codename, name = _columns(permission)
    content_type, _ = apps.get_model("contenttypes", "ContentType").objects.get_or_create(app_label=app, model=model)
    row, _ = apps.get_model("auth", "Permission").objects.update_or_create(
        content_type=content_type, codename=codename, defaults={"name": name}
    )
    return row


def _columns(permission: str) -> tuple[str, str, str, str]:
    app, codename = permission.split(".")
    verb, model = codename.split("_")
    description = _NAMES.get(permission, f"Can {verb} {_MODEL_NAMES.get(model, model)}")
    return app, "task" if permission == "tasks.view_payload" else model, codename, description
