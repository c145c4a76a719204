"""The fields of the form of a queue, named as in queue files."""

from typing import Any

from django import forms

from queues.admin.panels import PanelField
from queues.admin.rows import FieldRow, RowsField, SubQueueRow, VaultRow
from queues.definitions import QueueMode, QueueOrder

SPANS = {
    "active_timeout": "One run may take so long; then it is stopped and tried again.",
    "pending_timeout": "A task that waits longer is archived. 0: it may wait for ever.",
    "ttl_completed": "How long a completed task is kept, with its result.",
    "ttl_archived": "How long an archived task is kept.",
    "retry_delay": "The wait before the first retry; each further one is twice as long.",
    "retry_max_delay": "The longest wait before a retry.",
}
"""The limits that are durations, with what they mean."""


def text(label: str, help_text: str = "", *, missing: str = "", **attrs: str) -> forms.CharField:
    """Return a field for a line of text, which has to be filled if there is something to say when it is `missing`."""
    widget = forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", **attrs})
    options: dict[str, Any] = {"required": bool(missing), "error_messages": {"required": missing}}
    return forms.CharField(label=label, help_text=help_text, widget=widget, **options)


class QueueFields(forms.Form):
    """All that people state about a queue."""

    version = forms.CharField(required=False, widget=forms.HiddenInput)
    name = text(
        "Name",
        "Letters, digits, dots, hyphens and underscores. It cannot be changed later.",
        missing="`name` is missing",
    )
    is_enabled = forms.BooleanField(
        label="Enabled", required=False, initial=True, help_text="A disabled queue takes no tasks; its workers idle."
    )
    mode = forms.ChoiceField(
        label="Mode",
        choices=[(mode.value, mode.value) for mode in QueueMode],
        help_text="long_running keeps one process warm for all tasks; one_shot starts one for each.",
    )
    priority = forms.IntegerField(
        label="Priority", required=False, initial=1, help_text="From 1 to 1000. With sub-queues theirs count."
    )
    order = forms.ChoiceField(
        label="Order",
        choices=[(order.value, order.value) for order in QueueOrder],
        initial=QueueOrder.WEIGHTED.value,
        help_text="weighted serves higher priorities more often; strict serves lower ones only when those are empty.",
    )
    sub_queues = RowsField(
        SubQueueRow,
        label="Sub-queues",
        noun="sub-queue",
        template="queues/admin/plain_row.html",
        help_text="Lines of their own, each with a priority. Without any, tasks are put on the queue itself.",
    )
    git_url = text(
        "Repository",
        "https://, ssh://, user@host:path, or file:/// on the disk of the workers.",
        missing="`git_url` is missing",
        placeholder="https://github.com/example/repo.git",
    )
    branch = text("Branch", "Or a tag. Empty: main.", placeholder="main")
    git_token = forms.ChoiceField(
        label="Git token",
        required=False,
        help_text="The vault entry with the token of a private https repository, among those that are declared as git "
        "tokens for its host. The token itself is never shown.",
        error_messages={
            "invalid_choice": "it must be vault://<vault>/<key>, never a token itself; "
            "the entry is declared as a git token"
        },
    )
    check = PanelField("Check", "queues/admin/check.html")
    code_path = text("Folder", "Only this folder of the repository is fetched. Empty: all of it.")
    startup_cmd = text(
        "Start command",
        "Run without a shell; python is the virtual environment's.",
        missing="`startup_cmd` is missing",
        placeholder="python main.py",
    )
    startup_timeout_secs = forms.IntegerField(
        label="Start timeout",
        required=False,
        help_text="Seconds until the process has to be ready.",
        widget=forms.NumberInput(attrs={"placeholder": "60"}),
    )
    requirements_file = text(
        "Requirements file",
        "Ignored when the repository has none. Empty: requirements.txt.",
        placeholder="requirements.txt",
    )
    redis_storage = forms.BooleanField(
        label="Keep results", required=False, initial=True, help_text="Off keeps only how a task ended."
    )
    env_vars = forms.CharField(
        label="Environment variables",
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false", "placeholder": "LOG_LEVEL=info"}),
        help_text="A line each: KEY=value. Line breaks of a value are written as \\n, with quotes around the value. "
        "Secrets belong in vaults.",
    )
    vaults = RowsField(
        VaultRow,
        label="Vaults",
        noun="vault",
        template="queues/admin/plain_row.html",
        help_text="Their entries become environment variables. Order matters: a later vault overrides an earlier one.",
    )
    max_retry = forms.IntegerField(
        label="Retries", required=False, help_text="How often a task that failed is tried again."
    )
    max_waiting_tasks = forms.IntegerField(
        label="Waiting tasks",
        required=False,
        help_text="With as many pending, scheduled or to be retried, a sub-queue takes no more. 0: no limit.",
    )
    active_timeout = text("Active timeout", SPANS["active_timeout"])
    pending_timeout = text("Pending timeout", SPANS["pending_timeout"])
    ttl_completed = text("Keep completed", SPANS["ttl_completed"])
    ttl_archived = text("Keep archived", SPANS["ttl_archived"])
    retry_delay = text("Retry delay", SPANS["retry_delay"])
    retry_max_delay = text("Longest retry delay", SPANS["retry_max_delay"])
    input = RowsField(
        FieldRow,
        label="Input",
        noun="field",
        template="queues/admin/field_row.html",
        help_text="Checked for every task. Fields that are not named here pass as they are.",
    )
    example = PanelField("Example", "queues/admin/example.html")
    output = RowsField(
        FieldRow,
        label="Output",
        noun="field",
        template="queues/admin/field_row.html",
        help_text="What results look like. Documentation only; nothing is checked.",
    )


SECTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Basics", {"fields": ("name", "is_enabled", "mode", "priority")}),
    ("Sub-queues", {"fields": ("sub_queues", "order")}),
    (
        "Deployment",
        {
            "fields": (
                *("git_url", "branch", "git_token", "check", "code_path", "startup_cmd", "startup_timeout_secs"),
                *("requirements_file", "env_vars", "redis_storage"),
            )
        },
    ),
    ("Vaults", {"fields": ("vaults",)}),
    (
        "Limits",
        {
            "description": "Durations are written 30, 10m, 24h or 1h30m; a plain number counts seconds. "
            "What is left empty follows the server's default, which is shown.",
            "fields": ("max_retry", "max_waiting_tasks", *SPANS),
        },
    ),
    ("Payload", {"fields": ("input", "example", "output")}),
)
"""The form in sections, in order."""
