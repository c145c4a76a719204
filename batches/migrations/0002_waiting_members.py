"""Who created a batch, when members were added last, and how many members wait for each Redis queue."""

from typing import Any

import django.db.models.deletion
from django.db import migrations, models
from django.db.models import Count, Q, Sum
from django.db.models.functions import Length


def count_waiting_members(apps: Any, _: Any) -> None:
    batches, members, waiting = (apps.get_model("batches", name) for name in ("Batch", "Member", "WaitingMembers"))
    owners = {}
    unended = batches.objects.filter(Q(ended_at=None) | Q(busy_until__isnull=False))
    for batch in unended.only("id", "created_by"):
        created_by = batch.created_by
        owners[batch.pk] = f"{created_by['kind']}:{created_by.get('id') or created_by['name']}"[:64]
        batches.objects.filter(pk=batch.pk).update(owner=owners[batch.pk])
    found = members.objects.filter(state="waiting", batch__in=unended.order_by().values("pk")).order_by()
    counted = found.values("batch", "redis_queue").annotate(count=Count("pk"), size_bytes=Sum(Length("request")))
    waiting.objects.bulk_create(
        [
            waiting(
                batch_id=row["batch"],
                redis_queue=row["redis_queue"],
                owner=owners[row["batch"]],
                count=row["count"],
                size_bytes=row["size_bytes"] or 0,
            )
            for row in counted
        ],
        batch_size=1000,
    )


class Migration(migrations.Migration):
    dependencies = [("batches", "0001_initial")]

    operations = [
        migrations.AddField("batch", "owner", models.CharField(db_default="", editable=False, max_length=64)),
        migrations.AddField("batch", "added_at", models.DateTimeField(null=True)),
        migrations.AddField("batch", "is_abandoned", models.BooleanField(db_default=False, editable=False)),
        migrations.RemoveIndex("batch", "batch_by_work"),
        migrations.RemoveIndex("batch", "batch_calling_back"),
        migrations.AddIndex(
            "batch",
            models.Index(fields=["owner", "busy_until"], condition=Q(busy_until__isnull=False), name="batch_by_turn"),
        ),
        migrations.AddIndex(
            "batch",
            models.Index(
                fields=["owner", "created_at"], condition=Q(callback_state="waiting"), name="batch_calling_back"
            ),
        ),
        migrations.AddIndex(
            "batch", models.Index(fields=["created_at"], condition=Q(is_closed=False), name="batch_open")
        ),
        migrations.AddIndex(
            "batch", models.Index(fields=["created_at"], condition=Q(is_abandoned=True), name="batch_abandoned")
        ),
        migrations.CreateModel(
            "WaitingMembers",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "batch",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="waiting", to="batches.batch"
                    ),
                ),
                ("redis_queue", models.CharField(db_index=True, max_length=128)),
                ("owner", models.CharField(db_index=True, max_length=64)),
                ("count", models.BigIntegerField(default=0)),
                ("size_bytes", models.BigIntegerField(default=0)),
            ],
            options={
                "default_permissions": (),
                "constraints": [models.UniqueConstraint(fields=("batch", "redis_queue"), name="waiting_once")],
            },
        ),
        migrations.RunPython(count_waiting_members, migrations.RunPython.noop),
    ]
