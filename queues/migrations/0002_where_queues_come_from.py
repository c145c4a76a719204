from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("queues", "0001_initial")]

    operations = [
        migrations.AlterModelOptions(
            name="queue",
            options={"ordering": ["name"], "permissions": [("pause_queue", "Can pause and resume queues")]},
        ),
        migrations.AddField(
            model_name="queue",
            name="file_path",
            field=models.CharField(blank=True, editable=False, max_length=4096),
        ),
        migrations.AlterField(
            model_name="queue",
            name="source",
            field=models.CharField(
                choices=[("file", "queue file"), ("admin", "admin"), ("api", "API")],
                default="admin",
                editable=False,
                max_length=8,
            ),
        ),
    ]
