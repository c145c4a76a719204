from django.db import migrations, models
from django.utils import timezone

from runqy.audit import triggers
from runqy.audit.chain import chain_digest, current_key


def install(apps, schema_editor):
    triggers.install(schema_editor.connection)


def remove(apps, schema_editor):
    triggers.remove(schema_editor.connection)


def append_keyed_record(apps, schema_editor):
    """End a chain of plain hashes with a record that has a key: from now on the last one always has."""
    head = apps.get_model("audit", "AuditHead").objects.select_for_update().filter(number__gt=0).first()
    if head is None:
        return
    key = current_key()
    record = apps.get_model("audit", "AuditRecord")(
        number=head.number + 1,
        at=timezone.now(),
        actor_kind="server",
        actor_name="server",
        action="audit.keyed",
        object_kind="audit",
        object_name="audit",
        changes="{}",
        previous=head.digest,
        key_id=key.id,
    )
    record.digest = chain_digest(record, key)
    record.save()
    head.number, head.digest = record.number, record.digest
    head.save()


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
        migrations.RunPython(append_keyed_record, migrations.RunPython.noop),
    ]
