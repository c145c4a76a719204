import django.core.validators
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import runqy.accounts.validators


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="ApiKey",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "name",
                    models.CharField(
                        help_text="Who or what uses this key.",
                        max_length=100,
                        validators=[
                            django.core.validators.RegexValidator(
                                "\\A(?! *$)[^\\x00-\\x1f\\x7f]+\\Z",
                                "Must be one line of at most 100 characters, and not blank.",
                            )
                        ],
                    ),
                ),
                (
                    "role",
                    models.CharField(
                        choices=[
                            ("admin", "admin"),
                            ("worker", "worker"),
                            ("client", "client"),
                            ("metrics", "metrics"),
                            ("viewer", "viewer"),
                            ("operator", "operator"),
                            ("configurator", "configurator"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "queues",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Names of the queues it is limited to; empty: all.",
                        validators=[runqy.accounts.validators.validate_queue_names],
                    ),
                ),
                (
                    "vaults",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Names of the vaults that a worker key is limited to; empty: all.",
                        validators=[runqy.accounts.validators.validate_vault_names],
                    ),
                ),
                (
                    "rate_limit",
                    models.CharField(
                        blank=True,
                        help_text="For example 600/m. Empty: RUNQY_RATE_LIMIT.",
                        max_length=16,
                        validators=[runqy.accounts.validators.validate_rate_limit],
                    ),
                ),
                (
                    "allow_shared_redis",
                    models.BooleanField(
                        default=False,
                        help_text="Give workers that accept no Redis user of their own, such as Go's, the Redis password that all such workers share. It reaches the tasks of all queues, even after the key is revoked. Off: these workers are refused. Only applies to keys that are limited to queues.",
                    ),
                ),
                ("digest", models.CharField(editable=False, max_length=64, unique=True)),
                ("prefix", models.CharField(editable=False, max_length=16)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "expires_at",
                    models.DateTimeField(blank=True, null=True, validators=[runqy.accounts.validators.validate_expiry]),
                ),
                ("revoked_at", models.DateTimeField(editable=False, null=True)),
                ("last_used_at", models.DateTimeField(editable=False, null=True)),
                ("created_by_kind", models.CharField(default="", editable=False, max_length=16)),
                ("created_by", models.CharField(default="", editable=False, max_length=300)),
                (
                    "created_by_key",
                    models.ForeignKey(
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="created_keys",
                        to="accounts.apikey",
                    ),
                ),
                (
                    "created_by_user",
                    models.ForeignKey(
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                ("is_personal", models.BooleanField(default=False, editable=False)),
            ],
            options={
                "verbose_name": "API key",
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("vaults", []), ("role", "worker"), _connector="OR"),
                        name="only_worker_keys_are_limited_to_vaults",
                        violation_error_message="Only keys with the role worker can be limited to vaults.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("queues", []), models.Q(("role", "metrics"), _negated=True), _connector="OR"
                        ),
                        name="no_metrics_keys_are_limited_to_queues",
                        violation_error_message="Keys with the role metrics cannot be limited to queues.",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="UserSettings",
            fields=[
                (
                    "user",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "time_zone",
                    models.CharField(
                        help_text="All times in the admin are in this zone: those that it shows and those that you type.",
                        max_length=64,
                        validators=[runqy.accounts.validators.validate_time_zone],
                    ),
                ),
            ],
            options={"verbose_name_plural": "user settings", "default_permissions": ()},
        ),
    ]
