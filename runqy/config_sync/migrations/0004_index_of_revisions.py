from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("publication", "0003_rollouts")]

    operations = [
        migrations.AddIndex("storeddocument", models.Index(fields=["revision"], name="document_revision")),
    ]
