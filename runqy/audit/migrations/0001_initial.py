from django.db import migrations, models

from runqy.audit import triggers


def install_triggers(apps, schema_editor):
    triggers.install(schema_editor.connection)


def remove_triggers(apps, schema_editor):
    triggers.remove(schema_editor.connection)


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="AuditHead",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.BigIntegerField(default=0)),
                (
                    "digest",
                    models.CharField(
                        default="0000000000000000000000000000000000000000000000000000000000000000", max_length=64
                    ),
                ),
                ("removed", models.BigIntegerField(default=0)),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="AuditRecord",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.BigIntegerField(unique=True)),
                ("at", models.DateTimeField(db_index=True)),
                ("recorded_at", models.DateTimeField(null=True)),
                ("event_id", models.CharField(max_length=32, null=True, unique=True)),
                (
                    "actor_kind",
                    models.CharField(
                        choices=[
                            ("key", "key"),
                            ("user", "user"),
                            ("command", "command"),
                            ("hook", "hook"),
                            ("server", "server"),
                        ],
                        max_length=16,
                    ),
                ),
                ("actor_id", models.CharField(blank=True, max_length=300)),
                ("actor_name", models.CharField(max_length=300)),
                ("address", models.CharField(blank=True, max_length=300)),
                ("request_id", models.CharField(blank=True, max_length=300)),
                ("action", models.CharField(max_length=64)),
                ("object_kind", models.CharField(max_length=32)),
                ("object_name", models.CharField(max_length=300)),
                ("changes", models.TextField()),
                ("previous", models.CharField(max_length=64)),
                ("digest", models.CharField(max_length=64)),
            ],
            options={
                "ordering": ["-number"],
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(fields=["object_kind", "object_name", "-number"], name="audit_by_object"),
                    models.Index(fields=["action", "-number"], name="audit_by_action"),
                    models.Index(fields=["actor_name", "-number"], name="audit_by_actor"),
                ],
            },
        ),
        migrations.RunPython(install_triggers, remove_triggers),
    ]
