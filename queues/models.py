"""The models of queues. Their fields define, validate and document a queue for files, API and admin."""

from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from queues.definitions import (
    CHILD_CONCURRENCY_MAX,
    Deployment,
    LimitOverrides,
    QueueBase,
    QueueMode,
    QueueOrder,
    QueueSpec,
    ReleaseMode,
    SubQueueSpec,
)
from queues.validators import (
    DURATION_MAX_S,
    PRIORITY_MAX,
    sub_queue_name_error,
    validate_branch,
    validate_command,
    validate_env_vars,
    validate_git_token,
    validate_git_url,
    validate_payload_schema,
    validate_queue_name,
    validate_repository_path,
    validate_vaults,
    validate_webhook_hosts,
)
from runqy.core.formats.names import QUEUE_NAME_MAX_LENGTH
from vaults.models import SealedSecret

QUEUE_COLUMNS = tuple(column.name for column in fields(QueueBase) if column.name not in ("deployment", "sub_queues"))
DEPLOYMENT_COLUMNS = tuple(column.name for column in fields(Deployment))
ROLLOUT_COLUMNS = ("rollout_first", "rollout_bake_s", "rollout_max_unavailable", "replace_first", "keep_previous")
LIMIT_COLUMNS = tuple(column.name for column in fields(LimitOverrides))
DEFAULTS = {column.name: column.default for column in fields(Deployment) if column.default is not MISSING}


def definition_key(column: str) -> str:
    if column in (*LIMIT_COLUMNS, *ROLLOUT_COLUMNS):
        return column.removeprefix("rollout_").removesuffix("_s")
    return "startup_timeout_secs" if column == "startup_timeout_s" else column


def definition_path(column: str) -> str:
    """Return the path of a column in queue files and the API: `deployment.limits.max_retry`."""
    groups = (
        ("deployment.limits.", LIMIT_COLUMNS),
        ("deployment.rollout.", ROLLOUT_COLUMNS),
        ("deployment.", DEPLOYMENT_COLUMNS),
    )
    return next((prefix for prefix, columns in groups if column in columns), "") + definition_key(column)


def duration_field(minimum_s: int, help_text: str) -> "models.PositiveBigIntegerField[Any, Any]":
    """Return a field for a limit in seconds. Null means the server's default."""
    return models.PositiveBigIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(minimum_s), MaxValueValidator(DURATION_MAX_S)],
        help_text=help_text,
    )


class QueueSource(models.TextChoices):
    """Where a queue was changed last."""

    FILE = "file", "queue file"
    ADMIN = "admin", "admin"
    API = "api", "API"
    APPLIED = "applied", "runqy queue apply"


class Queue(models.Model):
    """A queue: the code that its workers deploy, and the limits of its tasks."""

    name = models.CharField(
        max_length=QUEUE_NAME_MAX_LENGTH,
        unique=True,
        validators=[validate_queue_name],
        help_text="Letters, digits, dots, hyphens and underscores. Cannot be changed later.",
    )
    is_enabled = models.BooleanField(
        default=True, help_text="A disabled queue rejects new tasks; its workers finish their tasks and then wait."
    )
    priority = models.PositiveIntegerField(
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(PRIORITY_MAX)],
        help_text=f"1 to {PRIORITY_MAX}. Ignored when sub-queues are defined.",
    )
    mode = models.CharField(
        max_length=16,
        choices=[(mode.value, mode.value) for mode in QueueMode],
        default=QueueMode.LONG_RUNNING.value,
        help_text="long_running keeps one process warm for all tasks; one_shot starts a process for each task.",
    )
    order = models.CharField(
        max_length=16,
        choices=[(order.value, order.value) for order in QueueOrder],
        default=QueueOrder.WEIGHTED.value,
        help_text="weighted serves sub-queues in proportion to their priorities; strict serves a lower priority only "
        "while the higher ones are empty.",
    )
    git_url = models.CharField(
        max_length=2000, validators=[validate_git_url], help_text="An https, ssh or file URL, or user@host:path."
    )
    branch = models.CharField(
        max_length=250, default=DEFAULTS["branch"], validators=[validate_branch], help_text="A branch or a tag."
    )
    code_path = models.CharField(
        max_length=1000,
        blank=True,
        validators=[validate_repository_path],
        help_text="Only this folder of the repository is fetched. Empty: all of it.",
    )
    startup_cmd = models.CharField(
        max_length=4000,
        validators=[validate_command],
        help_text="Started without a shell; python is the one of the virtual environment.",
    )
    startup_timeout_s = models.PositiveIntegerField(
        default=DEFAULTS["startup_timeout_s"],
        validators=[MaxValueValidator(24 * 3600)],
        help_text="Seconds until the process must be ready. 0: 30 minutes, or 10 without output and use of CPU.",
    )
    child_concurrency = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(CHILD_CONCURRENCY_MAX)],
        help_text="Limits the tasks (with batches: the batches) that a process runs at once. Empty: as many as it "
        "announces, which is one unless its code says otherwise.",
    )
    requirements_file = models.CharField(
        max_length=1000,
        blank=True,
        default=DEFAULTS["requirements_file"],
        validators=[validate_repository_path],
        help_text="Ignored when the repository does not contain it.",
    )
    env_vars = models.JSONField(
        default=dict,
        blank=True,
        validators=[validate_env_vars],
        help_text="Environment variables of the process. Secrets belong in vaults.",
    )
    redis_storage = models.BooleanField(default=True, help_text="Keep results; otherwise only the end state is kept.")
    hide_payloads = models.BooleanField(
        default=False,
        help_text="Leave payloads, results and tracebacks out of the history of runs, and hide them from viewers.",
    )
    vaults = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_vaults],
        help_text="Their entries become environment variables; a later vault overrides an earlier one.",
    )
    git_token = models.CharField(
        max_length=400, blank=True, validators=[validate_git_token], help_text="`vault://<vault>/<key>`"
    )
    release = models.CharField(
        max_length=16,
        choices=[(mode.value, mode.value) for mode in ReleaseMode],
        default=ReleaseMode.MANUAL.value,
        help_text="push releases each push to the branch, once a webhook of the git host is set up.",
    )
    rollout_first = models.PositiveSmallIntegerField(
        default=DEFAULTS["rollout_first"],
        validators=[MinValueValidator(1), MaxValueValidator(1000)],
        help_text="How many workers run a new release before all others.",
    )
    rollout_bake_s = models.PositiveBigIntegerField(
        default=DEFAULTS["rollout_bake_s"],
        validators=[MaxValueValidator(24 * 3600)],
        help_text="How long they run it, with at least one task, before the others follow.",
    )
    rollout_max_unavailable = models.PositiveSmallIntegerField(
        default=DEFAULTS["rollout_max_unavailable"],
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="How many of the workers, in percent, then change to it at a time. At least one does.",
    )
    replace_first = models.BooleanField(
        default=DEFAULTS["replace_first"],
        help_text="End a process before its successor starts, where memory has no room for both.",
    )
    keep_previous = models.BooleanField(
        default=DEFAULTS["keep_previous"],
        db_default=False,
        help_text="Keep the previous process of the first workers in memory until the release has proved itself, so "
        "that going back takes no load. Not with `replace_first`.",
    )
    max_retry = models.PositiveIntegerField(
        null=True, blank=True, validators=[MaxValueValidator(10_000)], help_text="How often a failed task is retried."
    )
    max_waiting_tasks = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(2**31 - 1)],
        help_text="Pending, scheduled and retry tasks of a sub-queue; it rejects further ones. 0: no limit.",
    )
    max_payload_bytes = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(2**31 - 1)],
        help_text="A task with a larger payload is rejected. 0: the server's limit.",
    )
    max_result_bytes = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(2**31 - 1)],
        help_text="A task with a larger result fails. 0: the worker's limit.",
    )
    max_memory_share = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="Percent of Redis's memory. While Redis is over 80 % full, a queue that holds more rejects new tasks "
        "and large results, if other queues have tasks.",
    )
    active_timeout_s = duration_field(1, "The time limit of one run; a run that exceeds it is stopped and retried.")
    pending_timeout_s = duration_field(0, "A task that is pending for longer is archived. 0: no limit.")
    ttl_completed_s = duration_field(0, "How long a completed task is kept, with its result.")
    ttl_archived_s = duration_field(1, "How long an archived task is kept.")
    retry_delay_s = duration_field(0, "The delay of the first retry; it doubles with each further one.")
    retry_max_delay_s = duration_field(0, "The longest delay of a retry.")
    webhook_hosts = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_webhook_hosts],
        help_text="Hosts that tasks may name in a webhook of their own, such as hooks.example.com.",
    )
    input = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_payload_schema],
        help_text="Validated for every task. Other members of a payload are passed on.",
    )
    output = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_payload_schema],
        help_text="Documents the results; not validated.",
    )
    webhook_secret = models.OneToOneField(
        SealedSecret, null=True, editable=False, on_delete=models.PROTECT, related_name="+"
    )
    """Signs those webhooks. Made with the first host, and kept until the queue is deleted."""
    git_hook_secret = models.OneToOneField(
        SealedSecret, null=True, editable=False, on_delete=models.PROTECT, related_name="+"
    )
    """Signs the pushes that release its code. Made when it first has `release: push`, and kept like the other."""
    replacements = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    """How often a change was saved that replaces processes at once."""
    source = models.CharField(max_length=8, choices=QueueSource.choices, default=QueueSource.ADMIN, editable=False)
    file_digest = models.CharField(max_length=64, blank=True, editable=False)
    """`spec_digest` of the queue when a file was last loaded. It differs from the row's if that was edited since."""
    file_path = models.CharField(max_length=4096, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        permissions = [("pause_queue", "Can pause and resume queues")]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.keep_previous and self.replace_first:
            raise ValidationError({"keep_previous": "Requires memory for two processes: replace_first must be off."})

    def as_spec(self, sub_queues: Iterable["SubQueue | SubQueueSpec"] | None = None) -> QueueSpec:
        """Return the queue as a specification, with its stored sub-queues or with the given ones."""
        subs = self.sub_queues.all() if sub_queues is None else sub_queues
        return QueueSpec.build(
            deployment={name: getattr(self, name) for name in DEPLOYMENT_COLUMNS},
            limits={name: getattr(self, name) for name in LIMIT_COLUMNS},
            sub_queues=[SubQueueSpec(name=sub.name, priority=sub.priority) for sub in subs],
            **{name: getattr(self, name) for name in QUEUE_COLUMNS},
        )

    def apply_spec(self, spec: QueueSpec) -> None:
        """Set all columns from a specification except `is_enabled`."""
        groups = ((spec, QUEUE_COLUMNS), (spec.deployment, DEPLOYMENT_COLUMNS), (spec.limits, LIMIT_COLUMNS))
        for values, columns in groups:
            for name in columns:
                if name != "is_enabled":
                    setattr(self, name, getattr(values, name))
        self.env_vars, self.vaults = dict(spec.deployment.env_vars), list(spec.deployment.vaults)
        self.webhook_hosts = list(spec.webhook_hosts)
        self.input = [field.to_json() for field in spec.input]
        self.output = [field.to_json() for field in spec.output]


class SubQueue(models.Model):
    """A part of a queue with a priority of its own."""

    queue = models.ForeignKey(Queue, on_delete=models.CASCADE, related_name="sub_queues")
    name = models.CharField(max_length=127, validators=[validate_queue_name])
    priority = models.PositiveIntegerField(
        default=1, validators=[MinValueValidator(1), MaxValueValidator(PRIORITY_MAX)]
    )
    position = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["position", "id"]
        verbose_name = "sub-queue"
        constraints = [
            models.UniqueConstraint(
                fields=["queue", "name"],
                name="one_sub_queue_for_each_name",
                violation_error_message="Another sub-queue has this name.",
            )
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if message := sub_queue_name_error(self.queue.name, self.name):
            raise ValidationError({"name": message})


class ReleaseSource(models.TextChoices):
    """What made a release."""

    FIRST = "first", "first deployment"
    MANUAL = "manual", "redeploy"
    PUSH = "push", "push"
    DEFINITION = "definition", "changed definition"
    ROLLBACK = "rollback", "rollback"


class ReleaseState(models.TextChoices):
    ROLLING_OUT = "rolling_out", "rolling out"
    LIVE = "live", "live"
    SUPERSEDED = "superseded", "superseded"
    REVERTED = "reverted", "reverted"
    FAILED = "failed", "failed"


class Release(models.Model):
    """A numbered commit that a queue runs, with how it is deployed and started. Only `queues.releases` writes it."""

    queue = models.ForeignKey(Queue, on_delete=models.CASCADE, related_name="releases")
    number = models.PositiveIntegerField()
    commit = models.CharField(max_length=64, blank=True)
    """Empty until a worker has deployed the newest of the branch."""
    git_url = models.CharField(max_length=2000)
    branch = models.CharField(max_length=250)
    code_path = models.CharField(max_length=1000, blank=True)
    startup_cmd = models.CharField(max_length=4000)
    requirements_file = models.CharField(max_length=1000, blank=True)
    subject = models.CharField(max_length=200, blank=True)
    """Subject, author and time of the commit, as workers report them."""
    author = models.CharField(max_length=200, blank=True)
    committed_at = models.DateTimeField(null=True)
    source = models.CharField(max_length=16, choices=ReleaseSource.choices)
    like = models.PositiveIntegerField(null=True)
    """The number of the release whose commit it has: of a rollback the one that it goes back to."""
    actor = models.CharField(max_length=200, blank=True)
    state = models.CharField(max_length=16, choices=ReleaseState.choices)
    reason = models.TextField(blank=True)
    """Why it was reverted, superseded or failed; while it is rolling out, what it waits for."""
    output = models.TextField(blank=True)
    """How its process ended on the worker that could not start it, and the last lines that it printed."""
    created_at = models.DateTimeField()
    live_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    workers = models.JSONField(default=list)
    """The ids of the workers that a rollout has given it to."""
    is_whole = models.BooleanField(default=False)
    """Whether all workers have it at once: there is no live release to go back to, or it is a rollback."""
    has_lost_worker = models.BooleanField(default=False)
    ready_at = models.DateTimeField(null=True)
    """When the first workers were ready."""
    is_baked = models.BooleanField(default=False)
    runs_before = models.PositiveBigIntegerField(default=0)
    """What became of the runs of the live release on its workers until the rollout began."""
    failures_before = models.PositiveBigIntegerField(default=0)

    class Meta:
        default_permissions = ()
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["queue", "number"], name="one_release_for_each_number"),
            models.UniqueConstraint(
                fields=["queue"], condition=Q(state=ReleaseState.LIVE.value), name="one_live_release"
            ),
            models.UniqueConstraint(
                fields=["queue"], condition=Q(state=ReleaseState.ROLLING_OUT.value), name="one_rollout"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.queue} release {self.number}"


class ReceivedPush(models.Model):
    """A push event that was received. Sent again it does nothing, even if the queue was rolled back since."""

    queue = models.ForeignKey(Queue, on_delete=models.CASCADE, related_name="pushes")
    digest = models.CharField(max_length=64)
    """Of the whole body, which is what the git host signs."""

    class Meta:
        default_permissions = ()
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["queue", "digest"], name="each_push_once")]

    def __str__(self) -> str:
        return f"{self.queue} {self.digest[:12]}"


class QueueDeletion(models.Model):
    """A deletion in progress. Stored before anything is deleted, so that maintenance can finish it."""

    queue = models.CharField(max_length=QUEUE_NAME_MAX_LENGTH)
    sub_queue = models.CharField(max_length=127, blank=True)
    redis_queues = models.JSONField()
    is_whole = models.BooleanField()
    """Whether the definition of the queue is deleted too, not only some of its Redis queues."""
    is_forced = models.BooleanField(default=False)
    """Whether pending and active tasks are deleted too."""
    before = models.TextField(blank=True)
    """The specification to restore if tasks arrived. If empty, the deletion waits until they have ended."""
    is_decided = models.BooleanField(default=False)
    """Whether the deletion cannot be undone any more, and only Redis must be emptied."""
    actor = models.JSONField()
    """The actor who requested the deletion, for the audit records of maintenance."""
    lease = models.CharField(max_length=32, blank=True)
    """The token of the process that continues the deletion."""
    leased_until = models.DateTimeField()

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["queue", "sub_queue", "is_whole"], name="one_deletion_for_each_queue")
        ]

    def __str__(self) -> str:
        return f"{self.queue}.{self.sub_queue}" if self.sub_queue else self.queue
