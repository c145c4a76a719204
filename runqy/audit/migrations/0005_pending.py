from django.db import migrations, models

from runqy.audit import triggers


def install(apps, schema_editor):
    triggers.install(schema_editor.connection)


def remove(apps, schema_editor):
    triggers.remove(schema_editor.connection)


class Migration(migrations.Migration):
    dependencies = [("audit", "0004_keyed_chain")]

    operations = [
        migrations.RunPython(remove, install),  # SQLite makes the table anew, and the triggers go with the old one
        migrations.AddField(
            model_name="auditrecord",
            name="recorded_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="auditrecord",
            name="event_id",
            field=models.CharField(max_length=32, null=True, unique=True),
        ),
        migrations.RunPython(install, remove),
    ]
