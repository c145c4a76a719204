from django.db import migrations, models

from runqy.audit import triggers


def install(apps, schema_editor):
    triggers.install(schema_editor.connection)


def remove(apps, schema_editor):
    triggers.remove(schema_editor.connection)


class Migration(migrations.Migration):
    dependencies = [("audit", "0005_pending")]

    operations = [
        migrations.RunPython(remove, install),  # SQLite makes the table anew, and the triggers go with the old one
        migrations.RemoveField(model_name="auditrecord", name="key_id"),
        migrations.AddField(model_name="audithead", name="removed", field=models.BigIntegerField(default=0)),
        migrations.RunPython(install, remove),
    ]
