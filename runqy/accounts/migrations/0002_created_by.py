import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]

    operations = [
        migrations.AddField("apikey", "created_by_kind", models.CharField(default="", editable=False, max_length=16)),
        migrations.AddField("apikey", "created_by", models.CharField(default="", editable=False, max_length=300)),
        migrations.AddField(
            "apikey",
            "created_by_key",
            models.ForeignKey(
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="created_keys",
                to="accounts.apikey",
            ),
        ),
    ]
