"""The pages of an instance that `tools.demo.load_fixture` has filled, with objects that are there."""

from typing import Any

from django.contrib.auth.models import Group, User

from alerts.models import Alert, AlertRule
from batches.models import Batch
from queues.models import Queue
from runqy.accounts.models import ApiKey
from runqy.audit.models import AuditRecord
from schedules.models import Schedule
from tasks.models import BulkAction
from tests.admin_site.addresses import RULES
from vaults.models import Vault
from webhooks.models import Endpoint

NOT_SHOWN = {"audit_auditrecord_export"}
"""A download of all records reads them in parts."""
SEARCHES = {
    "queues, searched": "/admin/queues/queue/?q=queue-19",
    "queues, page 3": "/admin/queues/queue/?p=3",
    "audit, searched": "/admin/audit/auditrecord/?q=queue-1999",
    "audit, old": "/admin/audit/auditrecord/?p=900",
    "tasks of a queue": "/admin/tasks/task/?queue=queue-0000_high",
    "tasks that ended": "/admin/tasks/task/?outcome=failure&sort=slowest&period=day",
    "tasks, searched": "/admin/tasks/task/?text=KeyError",
    "pending tasks of all queues": "/admin/tasks/task/?state=pending",
    "pending tasks, searched": "/admin/tasks/task/?state=pending&text=n",
    "workers, searched": "/admin/workers/worker/?q=worker-199",
}


def populated_pages() -> dict[str, str]:
    """Return all pages that show something, with objects from the middle of their lists."""
    rows: dict[str, Any] = {
        "queue": Queue.objects.get(name="queue-0003"),
        "vault": Vault.objects.get(name="vault-003"),
        "key": ApiKey.objects.get(name="key 3"),
        "user": User.objects.get(username="user-003"),
        "group": Group.objects.get(name="operator"),
        "alert": Alert.objects.get(subject="queue-0003"),
        "rule": AlertRule.objects.get(queue__name="queue-0003"),
        "endpoint": Endpoint.objects.get(url="https://hooks.example.com/003"),
        "record": AuditRecord.objects.get(number=3),
        "batch": Batch.objects.earliest("created_at"),
        "schedule": Schedule.objects.get(name="schedule-003"),
        "bulk": BulkAction.objects.earliest("pk"),
    }
    names = {name: row.pk for name, row in rows.items()}
    pages = {name: rule.path for name, rule in RULES.items() if rule.get != "never" and name not in NOT_SHOWN}
    pages_with_objects = {name: path.replace("gpu-rig-1:4121", "worker-003:1") for name, path in pages.items()}
    pages_with_objects = {
        name: path.replace("invoices-0005", "task-00007")
        .replace("=invoices", "=queue-0000_high")
        .replace("/invoices/", "/queue-0003/")
        for name, path in pages_with_objects.items()
    }
    pages_with_objects = {name: path.replace("S3_BUCKET", "TOKEN") for name, path in pages_with_objects.items()}
    return {name: path.format(**names) for name, path in pages_with_objects.items()} | SEARCHES
