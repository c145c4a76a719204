from django.db import migrations, models
from django.db.models import F


def _noticed_so_far(apps, schema_editor) -> None:
    """Every change before this was one that workers noticed."""
    apps.get_model("publication", "StoredDocument").objects.update(effective=F("revision"))


class Migration(migrations.Migration):
    dependencies = [("publication", "0001_initial")]

    operations = [
        migrations.AddField("storeddocument", "effective", models.BigIntegerField(default=0), preserve_default=False),
        migrations.RunPython(_noticed_so_far, migrations.RunPython.noop),
    ]
