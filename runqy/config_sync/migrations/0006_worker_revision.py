from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("publication", "0005_redis_queues")]

    operations = [
        migrations.RenameField("storeddocument", "effective", "worker_revision"),
    ]
