from django.db import migrations, models


def _rename(before: str, after: str):
    def rename(apps, schema_editor) -> None:
        apps.get_model("publication", "StoredDocument").objects.filter(kind=before).update(kind=after)

    return rename


class Migration(migrations.Migration):
    dependencies = [("publication", "0006_worker_revision")]

    operations = [
        migrations.AlterField("storeddocument", "kind", models.CharField(max_length=16)),
        migrations.RunPython(_rename("rollout", "redeployment"), _rename("redeployment", "rollout")),
    ]
