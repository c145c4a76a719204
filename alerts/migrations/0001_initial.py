import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import alerts.models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("queues", "0001_initial"),
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
            ],
            options={
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(fields=["resolved_at", "id"], name="alert_by_resolution"),
                    models.Index(fields=["opened_at", "id"], name="alert_by_opening"),
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
            name="AlertDelivery",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("event", models.CharField(choices=[("opened", "opened"), ("resolved", "resolved")], max_length=8)),
                ("created_at", models.DateTimeField()),
                ("due_at", models.DateTimeField()),
                ("attempts", models.PositiveIntegerField(default=0)),
                ("delivered_at", models.DateTimeField(null=True)),
                ("abandoned_at", models.DateTimeField(null=True)),
                ("error", models.CharField(blank=True, max_length=500)),
                (
                    "alert",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="deliveries", to="alerts.alert"
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "alert deliveries",
                "default_permissions": (),
                "indexes": [
                    models.Index(
                        condition=models.Q(("abandoned_at__isnull", True), ("delivered_at__isnull", True)),
                        fields=["due_at"],
                        name="alertdelivery_due",
                    )
                ],
                "constraints": [models.UniqueConstraint(fields=("alert", "event"), name="alertdelivery_once")],
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
                        help_text="How long the condition must last; 0 opens the alert at once. Empty: the default of the rule.",
                        null=True,
                        validators=[django.core.validators.MaxValueValidator(86400)],
                        verbose_name="opens after (seconds)",
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
