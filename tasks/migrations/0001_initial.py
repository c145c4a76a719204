import uuid

import django.db.models.deletion
from django.db import migrations, models

import tasks.models
from tasks.history import fulltext_index


def install_index(apps, schema_editor):
    fulltext_index.install(schema_editor.connection)


def remove_index(apps, schema_editor):
    fulltext_index.remove(schema_editor.connection)


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Task",
            fields=[
                ("id", models.CharField(max_length=255, primary_key=True, serialize=False)),
            ],
            options={
                "permissions": (
                    ("enqueue_task", "Can enqueue tasks"),
                    ("run_task", "Can run tasks"),
                    ("cancel_task", "Can cancel tasks"),
                    ("archive_task", "Can archive tasks"),
                    ("delete_task", "Can delete tasks"),
                    ("view_payload", "Can view hidden payloads, results and errors"),
                ),
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="PrunedRuns",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("queue", models.CharField(blank=True, max_length=255, unique=True)),
                ("ended_at", models.DateTimeField()),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="RunStream",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("redis_queue", models.CharField(max_length=255, unique=True)),
                ("cursor", models.CharField(default="0-0", max_length=41)),
                ("recorded", models.PositiveBigIntegerField(default=0)),
                ("invalid", models.PositiveBigIntegerField(default=0)),
                ("counted_only", models.PositiveBigIntegerField(default=0)),
                ("counted_only_cursor", models.CharField(default="0-0", max_length=41)),
                ("dropped", models.PositiveBigIntegerField(default=0)),
                ("dropped_seen", models.PositiveBigIntegerField(default=0)),
                ("passed", models.PositiveBigIntegerField(default=0)),
                ("passed_before", models.PositiveBigIntegerField(default=0)),
                ("dropped_at", models.DateTimeField(null=True)),
                ("rate_second", models.BigIntegerField(default=0)),
                ("rate_count", models.PositiveIntegerField(default=0)),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="BulkAction",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("action", models.CharField(max_length=16)),
                ("query", models.TextField()),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "Waiting"),
                            ("running", "Running"),
                            ("finished", "Finished"),
                            ("canceled", "Canceled"),
                            ("failed", "Failed"),
                        ],
                        default="waiting",
                        max_length=16,
                    ),
                ),
                ("expected", models.PositiveBigIntegerField()),
                ("actor", models.JSONField()),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("started_at", models.DateTimeField(null=True)),
                ("ended_at", models.DateTimeField(null=True)),
                ("cursor", models.TextField(blank=True)),
                ("requested_s", models.BigIntegerField()),
                ("slice_began_s", models.BigIntegerField(null=True)),
                ("copy_namespace", models.UUIDField(default=uuid.uuid4)),
                ("newest_run", models.BigIntegerField(default=0)),
                ("done", models.PositiveBigIntegerField(default=0)),
                ("skipped", models.PositiveBigIntegerField(default=0)),
                ("failed", models.PositiveBigIntegerField(default=0)),
                ("problems", models.JSONField(default=list)),
                ("unknown_at", models.DateTimeField(null=True)),
                ("full_queue", models.CharField(blank=True, max_length=255)),
                ("error", models.TextField(blank=True)),
                ("lease", models.CharField(blank=True, max_length=32)),
                ("leased_until", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "bulk action",
                "default_permissions": (),
                "indexes": [models.Index(fields=["state", "id"], name="bulk_action_by_state")],
            },
        ),
        migrations.CreateModel(
            name="QueueHour",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("redis_queue", models.CharField(max_length=255)),
                ("queue", models.CharField(max_length=255)),
                ("start", models.DateTimeField()),
                ("enqueued", models.PositiveBigIntegerField(default=0)),
                ("started", models.PositiveBigIntegerField(default=0)),
                ("completed", models.PositiveBigIntegerField(default=0)),
                ("retried", models.PositiveBigIntegerField(default=0)),
                ("failed", models.PositiveBigIntegerField(default=0)),
                ("canceled", models.PositiveBigIntegerField(default=0)),
                ("timed_out", models.PositiveBigIntegerField(default=0)),
                ("expired", models.PositiveBigIntegerField(default=0)),
                ("lost", models.PositiveBigIntegerField(default=0)),
                ("first_ended", models.PositiveBigIntegerField(default=0)),
                ("first_failed", models.PositiveBigIntegerField(default=0)),
                ("tasks_ended", models.PositiveBigIntegerField(default=0)),
                ("tasks_failed", models.PositiveBigIntegerField(default=0)),
                ("dropped", models.PositiveBigIntegerField(default=0)),
                ("wait_sum_ms", models.PositiveBigIntegerField(default=0)),
                ("run_sum_ms", models.PositiveBigIntegerField(default=0)),
                ("wait_histogram", models.JSONField(default=dict)),
                ("run_histogram", models.JSONField(default=dict)),
                ("backlog", models.PositiveBigIntegerField(null=True)),
                ("backlog_max", models.PositiveBigIntegerField(null=True)),
                ("oldest_ms", models.PositiveBigIntegerField(null=True)),
            ],
            options={
                "abstract": False,
                "default_permissions": (),
                "indexes": [
                    models.Index(fields=["queue", "start"], name="queuehour_by_queue"),
                    models.Index(fields=["start"], name="queuehour_by_start"),
                ],
                "constraints": [models.UniqueConstraint(fields=("redis_queue", "start"), name="queuehour_once")],
            },
        ),
        migrations.CreateModel(
            name="QueueMinute",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("redis_queue", models.CharField(max_length=255)),
                ("queue", models.CharField(max_length=255)),
                ("start", models.DateTimeField()),
                ("enqueued", models.PositiveBigIntegerField(default=0)),
                ("started", models.PositiveBigIntegerField(default=0)),
                ("completed", models.PositiveBigIntegerField(default=0)),
                ("retried", models.PositiveBigIntegerField(default=0)),
                ("failed", models.PositiveBigIntegerField(default=0)),
                ("canceled", models.PositiveBigIntegerField(default=0)),
                ("timed_out", models.PositiveBigIntegerField(default=0)),
                ("expired", models.PositiveBigIntegerField(default=0)),
                ("lost", models.PositiveBigIntegerField(default=0)),
                ("first_ended", models.PositiveBigIntegerField(default=0)),
                ("first_failed", models.PositiveBigIntegerField(default=0)),
                ("tasks_ended", models.PositiveBigIntegerField(default=0)),
                ("tasks_failed", models.PositiveBigIntegerField(default=0)),
                ("dropped", models.PositiveBigIntegerField(default=0)),
                ("wait_sum_ms", models.PositiveBigIntegerField(default=0)),
                ("run_sum_ms", models.PositiveBigIntegerField(default=0)),
                ("wait_histogram", models.JSONField(default=dict)),
                ("run_histogram", models.JSONField(default=dict)),
                ("backlog", models.PositiveBigIntegerField(null=True)),
                ("backlog_max", models.PositiveBigIntegerField(null=True)),
                ("oldest_ms", models.PositiveBigIntegerField(null=True)),
            ],
            options={
                "abstract": False,
                "default_permissions": (),
                "indexes": [
                    models.Index(fields=["queue", "start"], name="queueminute_by_queue"),
                    models.Index(fields=["start"], name="queueminute_by_start"),
                ],
                "constraints": [models.UniqueConstraint(fields=("redis_queue", "start"), name="queueminute_once")],
            },
        ),
        migrations.CreateModel(
            name="TaskRun",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("task_id", tasks.models.RedisTextField(max_length=255)),
                ("run_id", models.CharField(max_length=64)),
                ("queue", models.CharField(max_length=255)),
                ("sub_queue", models.CharField(blank=True, max_length=255)),
                ("redis_queue", models.CharField(max_length=255)),
                ("attempt", models.PositiveIntegerField()),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("completed", "completed"),
                            ("retried", "retried"),
                            ("failed", "failed"),
                            ("canceled", "canceled"),
                            ("timed_out", "timed_out"),
                            ("expired", "expired"),
                            ("lost", "lost"),
                        ],
                        max_length=16,
                    ),
                ),
                ("is_final", models.BooleanField()),
                ("is_foreign", models.BooleanField(default=False)),
                ("worker_id", models.CharField(blank=True, max_length=255)),
                ("commit", models.CharField(blank=True, max_length=64)),
                ("request_id", models.CharField(blank=True, max_length=200)),
                ("enqueued_at", models.DateTimeField(null=True)),
                ("started_at", models.DateTimeField(null=True)),
                ("ended_at", models.DateTimeField()),
                ("wait_ms", models.BigIntegerField(null=True)),
                ("run_ms", models.BigIntegerField(null=True)),
                ("error_class", models.CharField(blank=True, max_length=200)),
                ("error_message", models.TextField(blank=True)),
                ("fingerprint", models.CharField(max_length=32, null=True)),
                ("payload", models.TextField(blank=True)),
                ("result", models.TextField(blank=True)),
                ("traceback", models.TextField(blank=True)),
            ],
            options={
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(fields=["ended_at", "id"], name="run_by_time"),
                    models.Index(fields=["queue", "ended_at", "id"], name="run_by_queue"),
                    models.Index(fields=["outcome", "ended_at", "id"], name="run_by_outcome"),
                    models.Index(fields=["queue", "outcome", "ended_at", "id"], name="run_by_queue_outcome"),
                    models.Index(fields=["worker_id", "ended_at", "id"], name="run_by_worker"),
                    models.Index(fields=["commit", "ended_at", "id"], name="run_by_commit"),
                    models.Index(
                        condition=models.Q(("fingerprint__isnull", False)),
                        fields=["fingerprint", "ended_at", "id"],
                        name="run_by_error",
                    ),
                    models.Index(
                        condition=models.Q(("fingerprint__isnull", False)),
                        fields=["ended_at", "id", "queue", "fingerprint"],
                        name="run_by_failure",
                    ),
                    models.Index(
                        condition=models.Q(("fingerprint__isnull", False)),
                        fields=["queue", "ended_at", "id", "fingerprint"],
                        name="run_by_queue_failure",
                    ),
                    models.Index(
                        condition=models.Q(("run_ms__isnull", False)), fields=["run_ms", "id"], name="run_by_duration"
                    ),
                    models.Index(
                        condition=models.Q(("run_ms__isnull", False)),
                        fields=["queue", "run_ms", "id"],
                        name="run_by_queue_duration",
                    ),
                ],
                "constraints": [models.UniqueConstraint(fields=("task_id", "run_id"), name="run_once")],
            },
        ),
        migrations.CreateModel(
            name="TaskCopy",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("original_queue", models.CharField(max_length=255)),
                ("original_id", tasks.models.RedisTextField(max_length=255)),
                ("copy_queue", models.CharField(max_length=255)),
                ("copy_id", tasks.models.RedisTextField(max_length=255)),
                ("is_edited", models.BooleanField(default=False)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "bulk_action",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="copies",
                        to="tasks.bulkaction",
                    ),
                ),
            ],
            options={
                "default_permissions": (),
                "indexes": [
                    models.Index(fields=["original_id", "id"], name="copy_by_original"),
                    models.Index(fields=["copy_id"], name="copy_by_copy"),
                    models.Index(fields=["created_at"], name="copy_by_time"),
                ],
            },
        ),
        migrations.RunPython(install_index, remove_index),
    ]
