from django.db import migrations, models

from runqy.audit import triggers


def install(apps, schema_editor):
    triggers.install(schema_editor.connection)


def remove(apps, schema_editor):
    triggers.remove(schema_editor.connection)


class Migration(migrations.Migration):
    dependencies = [("audit", "0003_search")]

    operations = [
        migrations.RunPython(remove, install),  # SQLite makes the table anew, and the triggers go with the old one
        migrations.AddField(
            model_name="auditrecord",
            name="key_id",
            field=models.CharField(db_default="", default="", max_length=16),
        ),
        migrations.RunPython(install, remove),
    ]
