from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_created_by")]

    operations = [
        migrations.AddField(
            "apikey",
            "vaults",
            models.JSONField(
                blank=True,
                default=list,
                help_text="Names of the vaults that a worker key is limited to; empty: all.",
            ),
        ),
    ]
