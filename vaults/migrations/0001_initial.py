import uuid

import django.db.models.deletion
from django.db import migrations, models

import vaults.validators


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Vault",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "name",
                    models.CharField(max_length=64, unique=True, validators=[vaults.validators.validate_vault_name]),
                ),
                ("description", models.TextField(blank=True, validators=[vaults.validators.validate_description])),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "ordering": ["name"],
            },
        ),
        migrations.CreateModel(
            name="EntryVersion",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("vault", models.CharField(max_length=64)),
                ("key", models.CharField(max_length=255)),
                ("version", models.PositiveIntegerField()),
                (
                    "event",
                    models.CharField(
                        choices=[("set", "Set"), ("rotated", "Rotated"), ("deleted", "Deleted")], max_length=16
                    ),
                ),
                ("at", models.DateTimeField()),
                ("actor_kind", models.CharField(max_length=16)),
                ("actor_id", models.CharField(blank=True, max_length=300)),
                ("actor_name", models.CharField(max_length=300)),
            ],
            options={
                "ordering": ["-id"],
                "indexes": [models.Index(fields=["vault", "key", "-id"], name="versions_of_an_entry")],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("event", "rotated"), _negated=True),
                        fields=("vault", "key", "version"),
                        name="one_change_for_each_version",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="SealedSecret",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("purpose", models.CharField(max_length=32)),
                ("ciphertext", models.BinaryField()),
                ("previous_ciphertext", models.BinaryField(null=True)),
                ("previous_until", models.DateTimeField(null=True)),
                ("sealed_at", models.DateTimeField(auto_now=True)),
                ("shown_at", models.DateTimeField(null=True)),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="VaultDelivery",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("delivery", models.CharField(max_length=32)),
                ("at", models.DateTimeField()),
                ("worker_id", models.CharField(max_length=128)),
                ("queue", models.CharField(max_length=128)),
                ("vault", models.CharField(max_length=64)),
                ("versions", models.JSONField()),
                ("state", models.CharField(max_length=32)),
                ("key_id", models.CharField(blank=True, max_length=32)),
                ("key_name", models.CharField(max_length=100)),
                ("address", models.CharField(blank=True, max_length=100)),
            ],
            options={
                "verbose_name_plural": "vault deliveries",
                "indexes": [
                    models.Index(fields=["vault", "-id"], name="deliveries_of_a_vault"),
                    models.Index(fields=["worker_id", "vault", "id"], name="deliveries_to_a_worker"),
                    models.Index(fields=["at"], name="deliveries_by_age"),
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("delivery", "vault"), name="one_record_for_each_delivery")
                ],
            },
        ),
        migrations.CreateModel(
            name="VaultEntry",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=255, validators=[vaults.validators.validate_entry_key])),
                ("ciphertext", models.BinaryField()),
                ("is_secret", models.BooleanField(default=True, help_text="Mask the value wherever it is shown.")),
                (
                    "usage",
                    models.CharField(
                        choices=[("environment", "environment"), ("git_token", "git token"), ("both", "both")],
                        default="environment",
                        help_text="What it may be used for: a variable of tasks, a git token, or both.",
                        max_length=16,
                    ),
                ),
                (
                    "git_hosts",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Hosts that a git token may be sent to, such as github.com.",
                        validators=[vaults.validators.validate_git_hosts],
                    ),
                ),
                ("revision", models.BigIntegerField()),
                ("version", models.PositiveIntegerField()),
                ("updated_by", models.CharField(max_length=300)),
                ("sealed_at", models.DateTimeField()),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="entries", to="vaults.vault"
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "vault entries",
                "ordering": ["key"],
                "constraints": [
                    models.UniqueConstraint(fields=("vault", "key"), name="one_entry_for_each_key"),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("usage", "environment"), models.Q(("git_hosts", []), _negated=True), _connector="OR"
                        ),
                        name="git_token_has_hosts",
                        violation_error_message="A git token requires the hosts that it may be sent to.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("usage", "environment"), _negated=True), ("git_hosts", []), _connector="OR"
                        ),
                        name="only_git_token_has_hosts",
                        violation_error_message="Hosts require the usage git_token or both.",
                    ),
                ],
            },
        ),
    ]
