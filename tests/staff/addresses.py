"""The addresses of the admin, and who may look at each and send it a form."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Who may send what to an address."""

    path: str
    """With the objects of the test in the place of names in braces."""
    get: str | None
    """The permission that looking at it needs; None: none, once logged in."""
    post: str = ""
    """The permission that sending a form to it needs; empty: nobody may."""
    form: dict[str, str] = field(default_factory=dict)


def model(where: str, label: str, *, add: bool = True, change: bool = True, delete: bool = True) -> dict[str, Rule]:
    """Return the rules of the pages that Django gives a model."""
    app, name = label.split(".")

    def verb(verb: str, is_possible: bool = True) -> str:
        return f"{app}.{verb}_{name}" if is_possible else "nobody"

    at, place = f"{app}_{name}", f"/admin/{app}/{name}"
    return {
        f"{at}_changelist": Rule(path=f"{place}/", get=verb("view"), post=verb("view")),
        f"{at}_add": Rule(path=f"{place}/add/", get=verb("add", add), post=verb("add", add)),
        f"{at}_change": Rule(path=f"{place}/{where}/change/", get=verb("view"), post=verb("change", change)),
        f"{at}_delete": Rule(path=f"{place}/{where}/delete/", get=verb("delete", delete), post=verb("delete", delete)),
        f"{at}_history": Rule(path=f"{place}/{where}/history/", get=verb("view"), post=verb("view")),
    }


_TASKS = "/admin/tasks/task"
_TASK = f"{_TASKS}/invoices-0005"

RULES: dict[str, Rule] = {
    "index": Rule(path="/admin/", get=None),
    "password_change": Rule(path="/admin/password_change/", get=None),
    "password_change_done": Rule(path="/admin/password_change/done/", get=None),
    "jsi18n": Rule(path="/admin/jsi18n/", get=None),
    **model("{queue}", "queues.queue"),
    "queues_queue_check": Rule(path="/admin/queues/queue/check/", get="nobody", post="queues.change_queue"),
    "queues_queue_example": Rule(path="/admin/queues/queue/example/", get="nobody", post="queues.change_queue"),
    "queues_queue_switch": Rule(
        path="/admin/queues/queue/{queue}/switch/", get="nobody", post="queues.pause_queue", form={"verb": "pause"}
    ),
    "queues_queue_publish": Rule(path="/admin/queues/queue/{queue}/publish/", get="nobody", post="queues.change_queue"),
    "queues_queue_export": Rule(path="/admin/queues/queue/{queue}/export/", get="queues.change_queue"),
    **model("{vault}", "vaults.vault"),
    "vaults_vault_versions": Rule(path="/admin/vaults/vault/{vault}/entries/S3_BUCKET/", get="vaults.view_vault"),
    "vaults_vault_deliveries": Rule(path="/admin/vaults/vault/{vault}/deliveries/", get="vaults.view_vault"),
    "vaults_vault_paste": Rule(
        path="/admin/vaults/vault/{vault}/paste/", get="vaults.change_vault", post="vaults.change_vault"
    ),
    "vaults_vault_import_vault": Rule(
        path="/admin/vaults/vault/import/", get="vaults.add_vault", post="vaults.add_vault"
    ),
    "vaults_vault_export": Rule(
        path="/admin/vaults/vault/{vault}/export/", get="vaults.export_vault", post="vaults.export_vault"
    ),
    **model("{key}", "accounts.apikey", change=False, delete=False),
    "accounts_apikey_revoke_one": Rule(
        path="/admin/accounts/apikey/{key}/revoke/", get="accounts.change_apikey", post="accounts.change_apikey"
    ),
    **model("{user}", "auth.user"),
    "auth_user_password_change": Rule(
        path="/admin/auth/user/{user}/password/", get="auth.change_user", post="auth.change_user"
    ),
    **model("{group}", "auth.group"),
    **model("{record}", "audit.auditrecord", add=False, change=False, delete=False),
    "audit_auditrecord_export": Rule(path="/admin/audit/auditrecord/export/", get="audit.view_auditrecord"),
    "tasks_task_changelist": Rule(path=f"{_TASKS}/", get="tasks.view_task"),
    "tasks_task_change": Rule(path=f"{_TASK}/change/?queue=invoices", get="tasks.view_task"),
    "tasks_task_content": Rule(path=f"{_TASK}/payload/?queue=invoices", get="tasks.view_task"),
    "tasks_task_add": Rule(path=f"{_TASKS}/add/", get="tasks.enqueue_task", post="tasks.enqueue_task"),
    "tasks_task_handle": Rule(
        path=f"{_TASK}/handle/?queue=invoices", get="nobody", post="tasks.delete_task", form={"deed": "delete"}
    ),
    "tasks_task_bulk": Rule(
        path=f"{_TASKS}/bulk/",
        get="nobody",
        post="tasks.delete_task",
        form={"deed": "delete", "queue": "invoices", "state": "pending", "scope": "all"},
    ),
    "workers_worker_changelist": Rule(path="/admin/workers/worker/", get="workers.view_worker"),
    "workers_worker_change": Rule(path="/admin/workers/worker/gpu-rig-1:4121/change/", get="workers.view_worker"),
}
