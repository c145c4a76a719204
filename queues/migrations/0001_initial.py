import re

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import queues.validators


class Migration(migrations.Migration):
    initial = True

    dependencies = [("vaults", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="Queue",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "name",
                    models.CharField(
                        help_text="Letters, digits, dots, hyphens and underscores. Cannot be changed later.",
                        max_length=128,
                        unique=True,
                        validators=[
                            django.core.validators.RegexValidator(
                                "\\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\\Z",
                                "Use 1 to 128 letters, digits, `.`, `_` and `-`, beginning with a letter or a digit.",
                                flags=re.RegexFlag["ASCII"],
                            )
                        ],
                    ),
                ),
                (
                    "is_enabled",
                    models.BooleanField(
                        default=True,
                        help_text="A disabled queue rejects new tasks; its workers finish their tasks and then wait.",
                    ),
                ),
                (
                    "priority",
                    models.PositiveIntegerField(
                        default=1,
                        help_text="1 to 1000. Ignored when sub-queues are defined.",
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(1000),
                        ],
                    ),
                ),
                (
                    "mode",
                    models.CharField(
                        choices=[("long_running", "long_running"), ("one_shot", "one_shot")],
                        default="long_running",
                        help_text="long_running keeps one process warm for all tasks; one_shot starts a process for each task.",
                        max_length=16,
                    ),
                ),
                (
                    "order",
                    models.CharField(
                        choices=[("weighted", "weighted"), ("strict", "strict")],
                        default="weighted",
                        help_text="weighted serves sub-queues in proportion to their priorities; strict serves a lower priority only while the higher ones are empty.",
                        max_length=16,
                    ),
                ),
                (
                    "git_url",
                    models.CharField(
                        help_text="An https, ssh or file URL, or user@host:path.",
                        max_length=2000,
                        validators=[queues.validators.validate_git_url],
                    ),
                ),
                (
                    "branch",
                    models.CharField(
                        default="main",
                        help_text="A branch or a tag.",
                        max_length=250,
                        validators=[queues.validators.validate_branch],
                    ),
                ),
                (
                    "code_path",
                    models.CharField(
                        blank=True,
                        help_text="Only this folder of the repository is fetched. Empty: all of it.",
                        max_length=1000,
                        validators=[queues.validators.validate_repository_path],
                    ),
                ),
                (
                    "startup_cmd",
                    models.CharField(
                        help_text="Started without a shell; python is the one of the virtual environment.",
                        max_length=4000,
                        validators=[queues.validators.validate_command],
                    ),
                ),
                (
                    "startup_timeout_s",
                    models.PositiveIntegerField(
                        default=0,
                        help_text="Seconds until the process must be ready. 0: 30 minutes, or 10 without output and use of CPU.",
                        validators=[django.core.validators.MaxValueValidator(86400)],
                    ),
                ),
                (
                    "child_concurrency",
                    models.PositiveSmallIntegerField(
                        blank=True,
                        help_text="Limits the tasks (with batches: the batches) that a process runs at once. Empty: as many as it announces, which is one unless its code says otherwise.",
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(256),
                        ],
                    ),
                ),
                (
                    "requirements_file",
                    models.CharField(
                        blank=True,
                        default="requirements.txt",
                        help_text="Ignored when the repository does not contain it.",
                        max_length=1000,
                        validators=[queues.validators.validate_repository_path],
                    ),
                ),
                (
                    "env_vars",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        help_text="Environment variables of the process. Secrets belong in vaults.",
                        validators=[queues.validators.validate_env_vars],
                    ),
                ),
                (
                    "redis_storage",
                    models.BooleanField(default=True, help_text="Keep results; otherwise only the end state is kept."),
                ),
                (
                    "hide_payloads",
                    models.BooleanField(
                        default=False,
                        help_text="Leave payloads, results and tracebacks out of the history of runs, and hide them from viewers.",
                    ),
                ),
                (
                    "vaults",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Their entries become environment variables; a later vault overrides an earlier one.",
                        validators=[queues.validators.validate_vaults],
                    ),
                ),
                (
                    "git_token",
                    models.CharField(
                        blank=True,
                        help_text="`vault://<vault>/<key>`",
                        max_length=400,
                        validators=[queues.validators.validate_git_token],
                    ),
                ),
                (
                    "release",
                    models.CharField(
                        choices=[("manual", "manual"), ("push", "push")],
                        default="manual",
                        help_text="push releases each push to the branch, once a webhook of the git host is set up.",
                        max_length=16,
                    ),
                ),
                (
                    "rollout_first",
                    models.PositiveSmallIntegerField(
                        default=1,
                        help_text="How many workers run a new release before all others.",
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(1000),
                        ],
                    ),
                ),
                (
                    "rollout_bake_s",
                    models.PositiveBigIntegerField(
                        default=60,
                        help_text="How long they run it, with at least one task, before the others follow.",
                        validators=[django.core.validators.MaxValueValidator(86400)],
                    ),
                ),
                (
                    "rollout_max_unavailable",
                    models.PositiveSmallIntegerField(
                        default=25,
                        help_text="How many of the workers, in percent, then change to it at a time. At least one does.",
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(100),
                        ],
                    ),
                ),
                (
                    "replace_first",
                    models.BooleanField(
                        default=False,
                        help_text="End a process before its successor starts, where memory has no room for both.",
                    ),
                ),
                (
                    "max_retry",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="How often a failed task is retried.",
                        null=True,
                        validators=[django.core.validators.MaxValueValidator(10000)],
                    ),
                ),
                (
                    "max_waiting_tasks",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Pending, scheduled and retry tasks of a sub-queue; it rejects further ones. 0: no limit.",
                        null=True,
                        validators=[django.core.validators.MaxValueValidator(2147483647)],
                    ),
                ),
                (
                    "max_payload_bytes",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="A task with a larger payload is rejected. 0: the server's limit.",
                        null=True,
                        validators=[django.core.validators.MaxValueValidator(2147483647)],
                    ),
                ),
                (
                    "max_result_bytes",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="A task with a larger result fails. 0: the worker's limit.",
                        null=True,
                        validators=[django.core.validators.MaxValueValidator(2147483647)],
                    ),
                ),
                (
                    "max_memory_share",
                    models.PositiveSmallIntegerField(
                        blank=True,
                        help_text="Percent of Redis's memory. While Redis is over 80 % full, a queue that holds more rejects new tasks and large results, if other queues have tasks.",
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(100),
                        ],
                    ),
                ),
                (
                    "active_timeout_s",
                    models.PositiveBigIntegerField(
                        blank=True,
                        help_text="The time limit of one run; a run that exceeds it is stopped and retried.",
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(315360000),
                        ],
                    ),
                ),
                (
                    "pending_timeout_s",
                    models.PositiveBigIntegerField(
                        blank=True,
                        help_text="A task that is pending for longer is archived. 0: no limit.",
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(315360000),
                        ],
                    ),
                ),
                (
                    "ttl_completed_s",
                    models.PositiveBigIntegerField(
                        blank=True,
                        help_text="How long a completed task is kept, with its result.",
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(315360000),
                        ],
                    ),
                ),
                (
                    "ttl_archived_s",
                    models.PositiveBigIntegerField(
                        blank=True,
                        help_text="How long an archived task is kept.",
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(315360000),
                        ],
                    ),
                ),
                (
                    "retry_delay_s",
                    models.PositiveBigIntegerField(
                        blank=True,
                        help_text="The delay of the first retry; it doubles with each further one.",
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(315360000),
                        ],
                    ),
                ),
                (
                    "retry_max_delay_s",
                    models.PositiveBigIntegerField(
                        blank=True,
                        help_text="The longest delay of a retry.",
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(315360000),
                        ],
                    ),
                ),
                (
                    "webhook_hosts",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Hosts that tasks may name in a webhook of their own, such as hooks.example.com.",
                        validators=[queues.validators.validate_webhook_hosts],
                    ),
                ),
                (
                    "webhook_secret",
                    models.OneToOneField(
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="vaults.sealedsecret",
                    ),
                ),
                (
                    "git_hook_secret",
                    models.OneToOneField(
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="vaults.sealedsecret",
                    ),
                ),
                (
                    "input",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Validated for every task. Other members of a payload are passed on.",
                        validators=[queues.validators.validate_payload_schema],
                    ),
                ),
                (
                    "output",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Documents the results; not validated.",
                        validators=[queues.validators.validate_payload_schema],
                    ),
                ),
                (
                    "source",
                    models.CharField(
                        choices=[
                            ("file", "queue file"),
                            ("admin", "admin"),
                            ("api", "API"),
                            ("applied", "runqy queue apply"),
                        ],
                        default="admin",
                        editable=False,
                        max_length=8,
                    ),
                ),
                ("file_digest", models.CharField(blank=True, editable=False, max_length=64)),
                ("file_path", models.CharField(blank=True, editable=False, max_length=4096)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "ordering": ["name"],
                "permissions": [("pause_queue", "Can pause and resume queues")],
            },
        ),
        migrations.CreateModel(
            name="QueueDeletion",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("queue", models.CharField(max_length=128)),
                ("sub_queue", models.CharField(blank=True, max_length=127)),
                ("redis_queues", models.JSONField()),
                ("is_whole", models.BooleanField()),
                ("is_forced", models.BooleanField(default=False)),
                ("before", models.TextField(blank=True)),
                ("is_decided", models.BooleanField(default=False)),
                ("actor", models.JSONField()),
                ("lease", models.CharField(blank=True, max_length=32)),
                ("leased_until", models.DateTimeField()),
            ],
            options={
                "ordering": ["id"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("queue", "sub_queue", "is_whole"), name="one_deletion_for_each_queue"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="ReceivedPush",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("digest", models.CharField(max_length=64)),
                (
                    "queue",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="pushes", to="queues.queue"
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "default_permissions": (),
                "constraints": [models.UniqueConstraint(fields=("queue", "digest"), name="each_push_once")],
            },
        ),
        migrations.CreateModel(
            name="Release",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.PositiveIntegerField()),
                ("commit", models.CharField(blank=True, max_length=64)),
                ("git_url", models.CharField(max_length=2000)),
                ("branch", models.CharField(max_length=250)),
                ("code_path", models.CharField(blank=True, max_length=1000)),
                ("startup_cmd", models.CharField(max_length=4000)),
                ("requirements_file", models.CharField(blank=True, max_length=1000)),
                ("subject", models.CharField(blank=True, max_length=200)),
                ("author", models.CharField(blank=True, max_length=200)),
                ("committed_at", models.DateTimeField(null=True)),
                (
                    "source",
                    models.CharField(
                        choices=[
                            ("first", "first deployment"),
                            ("manual", "redeploy"),
                            ("push", "push"),
                            ("definition", "changed definition"),
                            ("rollback", "rollback"),
                        ],
                        max_length=16,
                    ),
                ),
                ("like", models.PositiveIntegerField(null=True)),
                ("actor", models.CharField(blank=True, max_length=200)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("rolling_out", "rolling out"),
                            ("live", "live"),
                            ("superseded", "superseded"),
                            ("reverted", "reverted"),
                            ("failed", "failed"),
                        ],
                        max_length=16,
                    ),
                ),
                ("reason", models.TextField(blank=True)),
                ("output", models.TextField(blank=True)),
                ("created_at", models.DateTimeField()),
                ("live_at", models.DateTimeField(null=True)),
                ("ended_at", models.DateTimeField(null=True)),
                ("workers", models.JSONField(default=list)),
                ("is_whole", models.BooleanField(default=False)),
                ("has_lost_worker", models.BooleanField(default=False)),
                ("ready_at", models.DateTimeField(null=True)),
                ("is_baked", models.BooleanField(default=False)),
                ("runs_before", models.PositiveBigIntegerField(default=0)),
                ("failures_before", models.PositiveBigIntegerField(default=0)),
                (
                    "queue",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="releases", to="queues.queue"
                    ),
                ),
            ],
            options={
                "ordering": ["-number"],
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(fields=("queue", "number"), name="one_release_for_each_number"),
                    models.UniqueConstraint(
                        condition=models.Q(("state", "live")), fields=("queue",), name="one_live_release"
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("state", "rolling_out")), fields=("queue",), name="one_rollout"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="SubQueue",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "name",
                    models.CharField(
                        max_length=127,
                        validators=[
                            django.core.validators.RegexValidator(
                                "\\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\\Z",
                                "Use 1 to 128 letters, digits, `.`, `_` and `-`, beginning with a letter or a digit.",
                                flags=re.RegexFlag["ASCII"],
                            )
                        ],
                    ),
                ),
                (
                    "priority",
                    models.PositiveIntegerField(
                        default=1,
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(1000),
                        ],
                    ),
                ),
                ("position", models.PositiveIntegerField(default=0)),
                (
                    "queue",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="sub_queues", to="queues.queue"
                    ),
                ),
            ],
            options={
                "verbose_name": "sub-queue",
                "ordering": ["position", "id"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("queue", "name"),
                        name="one_sub_queue_for_each_name",
                        violation_error_message="Another sub-queue has this name.",
                    )
                ],
            },
        ),
    ]
