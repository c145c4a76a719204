from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("queues", "0006_validators_and_deletions")]

    operations = [
        migrations.CreateModel(
            name="QueueMove",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("source", models.CharField(max_length=255, unique=True)),
                ("destination", models.CharField(max_length=255)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={"ordering": ["id"]},
        ),
    ]
