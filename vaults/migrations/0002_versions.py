from django.db import migrations, models
from django.db.models import F

BEFORE = "unknown (before versions were kept)"


def _first_versions(apps, schema_editor) -> None:
    """Number what there is with 1."""
    entries = apps.get_model("vaults", "VaultEntry").objects
    entries.update(sealed_at=F("updated_at"))
    version = apps.get_model("vaults", "EntryVersion")
    version.objects.bulk_create(
        version(
            vault=entry.vault.name,
            key=entry.key,
            version=1,
            event="set",
            at=entry.updated_at,
            actor_kind="server",
            actor_name=BEFORE,
        )
        for entry in entries.select_related("vault").order_by("pk")
    )


class Migration(migrations.Migration):
    dependencies = [("vaults", "0001_initial")]

    operations = [
        migrations.RenameField("vaultentry", "version", "revision"),
        migrations.AddField("vaultentry", "version", models.PositiveIntegerField(default=1), preserve_default=False),
        migrations.AddField(
            "vaultentry", "updated_by", models.CharField(max_length=300, default=BEFORE), preserve_default=False
        ),
        migrations.AddField("vaultentry", "sealed_at", models.DateTimeField(null=True)),
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
                        choices=[
                            ("set", "Set"),
                            ("rotated", "Rotated"),
                            ("deleted", "Deleted"),
                            ("imported", "Imported"),
                        ],
                        max_length=16,
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
        migrations.RunPython(_first_versions, migrations.RunPython.noop),
        migrations.AlterField("vaultentry", "sealed_at", models.DateTimeField()),
    ]
