from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("publication", "0002_effective")]

    operations = [
        migrations.AlterField(
            "storeddocument",
            "kind",
            models.CharField(
                choices=[("queue", "queue"), ("vault", "vault"), ("api_key", "api_key"), ("rollout", "rollout")],
                max_length=16,
            ),
        ),
    ]
