from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("queues", "0001_initial")]

    operations = [migrations.AddField("release", "output", models.TextField(blank=True))]
