from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("publication", "0004_index_of_revisions")]

    operations = [
        migrations.AlterField(
            "storeddocument",
            "kind",
            models.CharField(
                choices=[
                    ("queue", "queue"),
                    ("vault", "vault"),
                    ("api_key", "api_key"),
                    ("rollout", "rollout"),
                    ("redis_queues", "redis_queues"),
                ],
                max_length=16,
            ),
        ),
    ]
