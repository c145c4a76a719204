"""The URLs of the admin, and which users may view each and post a form to it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Who may send what to an address."""

    path: str
    """The names in braces are replaced by the objects of the test."""
    get: str | None
    """The permission that looking at it needs; None: none, once logged in."""
    post: str = ""
    """The permission that a POST requires."""
    form: dict[str, str] = field(default_factory=dict)


def model(where: str, label: str, *, add: bool = True, change: bool = True, delete: bool = True) -> dict[str, Rule]:
    """Return the rules of the pages that Django gives a model."""
    app, name = label.split(".")

    def verb(verb: str, is_possible: bool = True) -> str:
        return f"{app}.{verb}_{name}" if is_possible else "never"

    at, url = f"{app}_{name}", f"/admin/{app}/{name}"
    return {
        f"{at}_changelist": Rule(path=f"{url}/", get=verb("view"), post=verb("view")),
        f"{at}_add": Rule(path=f"{url}/add/", get=verb("add", add), post=verb("add", add)),
        f"{at}_change": Rule(path=f"{url}/{where}/change/", get=verb("view"), post=verb("change", change)),
        f"{at}_delete": Rule(path=f"{url}/{where}/delete/", get=verb("delete", delete), post=verb("delete", delete)),
        f"{at}_history": Rule(path=f"{url}/{where}/history/", get=verb("view"), post=verb("view")),
    }


_TASKS = "/admin/tasks/task"
_TASK = f"{_TASKS}/invoices-0005"

RULES: dict[str, Rule] = {
    "index": Rule(path="/admin/", get=None),
    "password_change": Rule(path="/admin/password_change/", get=None),
    "password_change_done": Rule(path="/admin/password_change/done/", get=None),
    "jsi18n": Rule(path="/admin/jsi18n/", get=None),
    **model("{queue}", "queues.queue"),
    "queues_queue_check": Rule(path="/admin/queues/queue/check/", get="never", post="queues.change_queue"),
    "queues_queue_example": Rule(path="/admin/queues/queue/example/", get="never", post="queues.change_queue"),
    "queues_queue_undefined": Rule(path="/admin/queues/queue/undefined/", get="queues.view_queue"),
    "queues_queue_columns": Rule(path="/admin/queues/queue/columns/", get="never", post="queues.view_queue"),
    "queues_queue_switch": Rule(
        path="/admin/queues/queue/{queue}/switch/", get="never", post="queues.pause_queue", form={"verb": "pause"}
    ),
    "queues_queue_publish": Rule(path="/admin/queues/queue/{queue}/publish/", get="never", post="queues.change_queue"),
    "queues_queue_export": Rule(path="/admin/queues/queue/{queue}/export/", get="queues.change_queue"),
    "queues_queue_webhook_secret": Rule(
        path="/admin/queues/queue/{queue}/webhook-secret/",
        get="never",
        post="queues.change_queue",
        form={"verb": "rotate"},
    ),
    "queues_queue_git_hook_secret": Rule(
        path="/admin/queues/queue/{queue}/git-hook-secret/",
        get="never",
        post="queues.change_queue",
        form={"verb": "rotate"},
    ),
    "queues_queue_by_name": Rule(path="/admin/queues/queue/by-name/invoices/", get="queues.view_queue"),
    **model("{vault}", "vaults.vault"),
    "vaults_vault_versions": Rule(path="/admin/vaults/vault/{vault}/entries/S3_BUCKET/", get="vaults.view_vault"),
    "vaults_vault_deliveries": Rule(path="/admin/vaults/vault/{vault}/deliveries/", get="vaults.view_vault"),
    "vaults_vault_bulk_edit": Rule(
        path="/admin/vaults/vault/{vault}/bulk-edit/", get="vaults.change_vault", post="vaults.change_vault"
    ),
    **model("{key}", "accounts.apikey", change=False, delete=False),
    "accounts_apikey_revoke_of": Rule(
        path="/admin/accounts/apikey/of/carol/revoke/", get="accounts.change_apikey", post="accounts.change_apikey"
    ),
    "accounts_apikey_revoke_one": Rule(
        path="/admin/accounts/apikey/{key}/revoke/", get="accounts.change_apikey", post="accounts.change_apikey"
    ),
    **model("{user}", "auth.user"),
    "auth_user_password_change": Rule(
        path="/admin/auth/user/{user}/password/", get="auth.change_user", post="auth.change_user"
    ),
    "auth_user_log_out": Rule(
        path="/admin/auth/user/{user}/log-out-everywhere/", get="auth.change_user", post="auth.change_user"
    ),
    **model("{group}", "auth.group"),
    **model("{record}", "audit.auditrecord", add=False, change=False, delete=False),
    "audit_auditrecord_export": Rule(path="/admin/audit/auditrecord/export/", get="audit.view_auditrecord"),
    **model("{alert}", "alerts.alert", add=False, change=False, delete=False),
    "alerts_alert_acknowledge": Rule(
        path="/admin/alerts/alert/acknowledge/?alert={alert}",
        get="alerts.acknowledge_alert",
        post="alerts.acknowledge_alert",
        form={"verb": "acknowledge"},
    ),
    **model("{rule}", "alerts.alertrule"),
    **model("{schedule}", "schedules.schedule"),
    "schedules_schedule_preview": Rule(
        path="/admin/schedules/schedule/preview/", get="never", post="schedules.view_schedule", form={"cron": "@daily"}
    ),
    "schedules_schedule_run": Rule(
        path="/admin/schedules/schedule/{schedule}/run/",
        get="never",
        post="schedules.run_schedule",
        form={"verb": "unpause"},
    ),
    **model("{endpoint}", "webhooks.endpoint"),
    "webhooks_endpoint_act": Rule(
        path="/admin/webhooks/endpoint/{endpoint}/act/",
        get="never",
        post="webhooks.change_endpoint",
        form={"verb": "test"},
    ),
    "batches_batch_changelist": Rule(path="/admin/batches/batch/", get="batches.view_batch", post="batches.view_batch"),
    "batches_batch_change": Rule(path="/admin/batches/batch/{batch}/change/", get="batches.view_batch"),
    "batches_batch_progress": Rule(path="/admin/batches/batch/{batch}/progress/", get="batches.view_batch"),
    "batches_batch_cancel": Rule(
        path="/admin/batches/batch/{batch}/cancel/", get="tasks.cancel_task", post="tasks.cancel_task"
    ),
    "tasks_task_changelist": Rule(path=f"{_TASKS}/", get="tasks.view_task"),
    "tasks_task_change": Rule(path=f"{_TASK}/change/?queue=invoices", get="tasks.view_task"),
    "tasks_task_output": Rule(path=f"{_TASK}/output/?queue=invoices", get="tasks.view_task"),
    "tasks_task_stream": Rule(path=f"{_TASK}/stream/?queue=invoices", get="tasks.view_task"),
    "tasks_task_content": Rule(path=f"{_TASK}/payload/?queue=invoices", get="tasks.view_task"),
    "tasks_task_add": Rule(path=f"{_TASKS}/add/", get="tasks.enqueue_task", post="tasks.enqueue_task"),
    "tasks_task_action": Rule(
        path=f"{_TASK}/action/?queue=invoices", get="never", post="tasks.delete_task", form={"action": "delete"}
    ),
    "tasks_task_bulk": Rule(
        path=f"{_TASKS}/bulk/",
        get="never",
        post="tasks.delete_task",
        form={"action": "delete", "queue": "invoices", "state": "pending", "id": "invoices-0001"},
    ),
    "tasks_task_failing": Rule(path=f"{_TASKS}/failing/", get="tasks.view_task"),
    "tasks_task_worker_runs": Rule(path=f"{_TASKS}/worker-runs/?worker=gpu-rig-1:4121", get="tasks.view_task"),
    "tasks_task_search": Rule(path=f"{_TASKS}/search/?q=invoices", get="tasks.view_task"),
    "tasks_task_errors": Rule(path=f"{_TASKS}/errors/", get="tasks.view_task"),
    "tasks_task_releases": Rule(path=f"{_TASKS}/releases/?queue=invoices", get="queues.view_queue"),
    "tasks_task_run_again": Rule(
        path=f"{_TASK}/run-again/?queue=invoices", get="tasks.run_task", post="tasks.run_task"
    ),
    "tasks_bulkaction_changelist": Rule(path="/admin/tasks/bulkaction/", get="tasks.view_task", post="tasks.view_task"),
    "tasks_bulkaction_add": Rule(
        path="/admin/tasks/bulkaction/add/?action=delete&queue=invoices&state=archived",
        get="tasks.delete_task",
        post="tasks.delete_task",
        form={"action": "delete", "queue": "invoices", "state": "archived", "expected": "1"},
    ),
    "tasks_bulkaction_change": Rule(path="/admin/tasks/bulkaction/{bulk}/change/", get="tasks.view_task"),
    "tasks_bulkaction_progress": Rule(path="/admin/tasks/bulkaction/{bulk}/progress/", get="tasks.view_task"),
    "tasks_bulkaction_cancel": Rule(
        path="/admin/tasks/bulkaction/{bulk}/cancel/", get="never", post="tasks.delete_task"
    ),
    "workers_worker_changelist": Rule(path="/admin/workers/worker/", get="workers.view_worker"),
    "workers_worker_request": Rule(
        path="/admin/workers/worker/gpu-rig-1:4121/request/",
        get="never",
        post="workers.stop_worker",
        form={"action": "restart"},
    ),
    "workers_worker_change": Rule(path="/admin/workers/worker/gpu-rig-1:4121/change/", get="workers.view_worker"),
}
