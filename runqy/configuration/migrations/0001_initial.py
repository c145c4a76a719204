from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Revision",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("value", models.BigIntegerField(default=0)),
            ],
        ),
        migrations.CreateModel(
            name="StoredDocument",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(max_length=16),
                ),
                ("name", models.CharField(max_length=160)),
                ("revision", models.BigIntegerField()),
                ("worker_revision", models.BigIntegerField()),
                ("body", models.BinaryField(null=True)),
                ("uses", models.JSONField(default=list)),
            ],
            options={
                "indexes": [models.Index(fields=["revision"], name="document_revision")],
                "constraints": [models.UniqueConstraint(fields=("kind", "name"), name="one_document_for_each_thing")],
            },
        ),
    ]
