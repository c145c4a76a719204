import re

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import queues.validators


class Migration(migrations.Migration):
    initial = True

    dependencies = []

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
                        help_text="Limits the tasks (with batches: the batches) that a process runs at once. Empty: "
                        "as many as it announces, which is one unless its code says otherwise.",
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
