import django.db.models.deletion
from django.db import migrations, models

import webhooks.models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("accounts", "0001_initial"),
        ("queues", "0001_initial"),
        ("vaults", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="Endpoint",
            fields=[
                (
                    "id",
                    models.CharField(
                        default=webhooks.models.make_endpoint_id,
                        editable=False,
                        max_length=16,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("webhook", "Webhook"),
                            ("slack", "Slack"),
                            ("email", "E-mail"),
                        ],
                        default="webhook",
                        max_length=16,
                    ),
                ),
                (
                    "url",
                    models.CharField(
                        blank=True,
                        help_text="Where messages are sent.",
                        max_length=2000,
                        validators=[webhooks.models.validate_url],
                        verbose_name="URL",
                    ),
                ),
                (
                    "recipients",
                    models.JSONField(blank=True, default=list, help_text="Addresses that e-mails are sent to."),
                ),
                (
                    "levels",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Only alerts of these levels; empty: all. Other events have no level.",
                    ),
                ),
                (
                    "queues",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Names of queues; empty: all, also those that are made later.",
                    ),
                ),
                ("since", models.JSONField(default=dict, editable=False)),
                ("events", models.JSONField(default=list, help_text="What it is told of.")),
                (
                    "include_result",
                    models.BooleanField(
                        default=False, help_text="Send results of up to 20 KiB; larger ones are left out."
                    ),
                ),
                (
                    "is_enabled",
                    models.BooleanField(
                        default=True,
                        help_text="A disabled endpoint gets no messages; what is due waits.",
                        verbose_name="enabled",
                    ),
                ),
                ("disabled_reason", models.CharField(blank=True, editable=False, max_length=500)),
                ("failing_since", models.DateTimeField(editable=False, null=True)),
                ("header_names", models.JSONField(default=list, editable=False)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("created_by_kind", models.CharField(default="", editable=False, max_length=16)),
                ("created_by", models.CharField(default="", editable=False, max_length=300)),
                (
                    "created_by_key",
                    models.ForeignKey(
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="accounts.apikey",
                    ),
                ),
                (
                    "headers",
                    models.OneToOneField(
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="vaults.sealedsecret",
                    ),
                ),
                (
                    "secret",
                    models.OneToOneField(
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="vaults.sealedsecret",
                    ),
                ),
            ],
            options={
                "verbose_name": "webhook endpoint",
                "ordering": ["-created_at", "id"],
            },
        ),
        migrations.CreateModel(
            name="Delivery",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("url", models.CharField(blank=True, max_length=2000)),
                ("target", models.CharField(max_length=512)),
                ("message_id", models.CharField(max_length=64)),
                ("event", models.CharField(max_length=64)),
                ("queue", models.CharField(blank=True, max_length=128)),
                ("task_id", models.CharField(blank=True, max_length=255)),
                ("body", models.TextField()),
                ("created_at", models.DateTimeField()),
                ("due_at", models.DateTimeField()),
                ("slot", models.PositiveSmallIntegerField(null=True)),
                ("attempts", models.PositiveIntegerField(default=0)),
                ("delivered_at", models.DateTimeField(null=True)),
                ("abandoned_at", models.DateTimeField(null=True)),
                ("sent_at", models.DateTimeField(null=True)),
                ("status", models.PositiveSmallIntegerField(null=True)),
                ("duration_ms", models.PositiveIntegerField(null=True)),
                ("response", models.TextField(blank=True)),
                ("error", models.CharField(blank=True, max_length=500)),
                (
                    "after",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="webhooks.delivery",
                    ),
                ),
                (
                    "endpoint",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="deliveries",
                        to="webhooks.endpoint",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "deliveries",
                "ordering": ["-id"],
                "default_permissions": (),
                "indexes": [
                    models.Index(
                        condition=models.Q(("abandoned_at__isnull", True), ("delivered_at__isnull", True)),
                        fields=["target", "due_at"],
                        name="delivery_due",
                    ),
                    models.Index(fields=["endpoint", "-id"], name="delivery_of_endpoint"),
                    models.Index(fields=["task_id"], name="delivery_of_task"),
                    models.Index(fields=["created_at"], name="delivery_by_age"),
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("target", "message_id"), name="delivery_once"),
                    models.UniqueConstraint(
                        condition=models.Q(("slot__isnull", False)),
                        fields=("target", "slot"),
                        name="delivery_in_flight",
                    ),
                ],
            },
        ),
    ]
