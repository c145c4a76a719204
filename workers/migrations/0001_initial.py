from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Worker",
            fields=[
                ("id", models.CharField(max_length=255, primary_key=True, serialize=False)),
            ],
            options={
                "managed": False,
                "permissions": (("stop_worker", "Can drain, restart and stop workers"),),
                "default_permissions": ("view",),
            },
        ),
    ]
