from django.db import migrations, models
from django.db.models import F

from runqy.audit import triggers

INDEXES = {
    "audit_by_object": ["object_kind", "object_name", "-number"],
    "audit_by_action": ["action", "-number"],
    "audit_by_actor": ["actor_name", "-number"],
}


def remove_triggers(apps, schema_editor):
    triggers.remove(schema_editor.connection)


def keep_numbers(apps, schema_editor):
    """Make the number of each record its id. PostgreSQL left ids out where a change was rolled back."""
    records = apps.get_model("audit", "AuditRecord").objects
    moved = records.exclude(id=F("number"))
    moved.update(id=-F("number"))  # by way of numbers that no record has
    records.filter(id__lt=0).update(id=F("number"))


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial")]

    operations = [
        migrations.RunPython(remove_triggers, migrations.RunPython.noop),
        migrations.DeleteModel("AuditHead"),
        migrations.RemoveField("auditrecord", "previous"),
        migrations.RemoveField("auditrecord", "digest"),
        # The number becomes the primary key, which the database assigns.
        migrations.RunPython(keep_numbers, migrations.RunPython.noop),
        *(migrations.RemoveIndex("auditrecord", name) for name in INDEXES),
        migrations.RemoveField("auditrecord", "number"),
        migrations.RenameField("auditrecord", "id", "number"),
        migrations.AlterField("auditrecord", "number", models.BigAutoField(primary_key=True, serialize=False)),
        *(
            migrations.AddIndex("auditrecord", models.Index(fields=fields, name=name))
            for name, fields in INDEXES.items()
        ),
    ]
