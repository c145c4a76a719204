import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import alerts.models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("queues", "0001_initial"),
        ("webhooks", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="KnownMaster",
            fields=[
                ("replication_id", models.CharField(max_length=64, primary_key=True, serialize=False)),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="QueueSnooze",
            fields=[
                ("queue", models.CharField(max_length=255, primary_key=True, serialize=False)),
                ("until", models.DateTimeField()),
                ("note", models.TextField(blank=True)),
                ("noted_by", models.CharField(max_length=300)),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Alert",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.CharField(choices=alerts.models.alert_kind_choices, max_length=32)),
                ("level", models.CharField(choices=[("warning", "warning"), ("critical", "critical")], max_length=8)),
                ("subject", models.CharField(blank=True, max_length=255)),
                ("queue", models.CharField(blank=True, max_length=255)),
                ("message", models.TextField()),
                ("since", models.DateTimeField()),
                ("seen_at", models.DateTimeField()),
                ("opened_at", models.DateTimeField(null=True)),
                ("resolved_at", models.DateTimeField(null=True)),
                ("acknowledged_at", models.DateTimeField(null=True)),
                ("snoozed_until", models.DateTimeField(null=True)),
                ("note", models.TextField(blank=True)),
                ("noted_by", models.CharField(blank=True, max_length=300)),
                ("is_withheld", models.BooleanField(default=False)),
                ("deliveries", models.ManyToManyField(related_name="alerts", to="webhooks.delivery")),
            ],
            options={
                "default_permissions": ("view",),
                "permissions": (("acknowledge_alert", "Can acknowledge and snooze alerts"),),
                "indexes": [
                    models.Index(fields=["resolved_at", "id"], name="alert_by_resolution"),
                    models.Index(fields=["opened_at", "id"], name="alert_by_opening"),
                    models.Index(
                        condition=models.Q(("resolved_at__isnull", True)),
                        fields=["queue", "kind"],
                        name="alert_of_queue",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("resolved_at__isnull", True)),
                        fields=("kind", "subject"),
                        name="alert_unresolved_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="AlertRule",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(choices=alerts.models.alert_kind_choices, max_length=32, verbose_name="rule"),
                ),
                (
                    "is_enabled",
                    models.BooleanField(
                        default=True, help_text="A disabled rule opens no alerts.", verbose_name="enabled"
                    ),
                ),
                (
                    "threshold",
                    models.FloatField(
                        blank=True,
                        help_text="Empty: the default of the rule.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(0)],
                    ),
                ),
                (
                    "for_s",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="How long the condition must last: seconds, or a duration such as 10m; 0 opens the alert at once. Empty: the default of the rule.",
                        null=True,
                        validators=[django.core.validators.MaxValueValidator(86400)],
                        verbose_name="opens after",
                    ),
                ),
                (
                    "queue",
                    models.ForeignKey(
                        blank=True,
                        help_text="Empty: for all queues without settings of their own.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="queues.queue",
                    ),
                ),
            ],
            options={
                "ordering": ["kind", models.OrderBy(models.F("queue"), nulls_first=True)],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("kind", "queue"),
                        name="alertrule_once_a_queue",
                        violation_error_message="This rule already has settings for this queue.",
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("queue__isnull", True)),
                        fields=("kind",),
                        name="alertrule_once",
                        violation_error_message="This rule already has settings for all queues.",
                    ),
                ],
            },
        ),
    ]
