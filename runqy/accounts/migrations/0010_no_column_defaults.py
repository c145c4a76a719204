from django.db import migrations, models

import runqy.accounts.validators


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0009_created_by_user"),
    ]

    operations = [
        migrations.AlterField(
            model_name="apikey",
            name="allow_shared_redis",
            field=models.BooleanField(
                default=False,
                help_text="Give workers that accept no Redis user of their own, such as Go's, the Redis password that all such workers share. It reaches the tasks of all queues, whatever the key is limited to, also after the key was revoked. Off: these workers are refused. Only matters for keys that are limited to queues.",
            ),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="created_by",
            field=models.CharField(default="", editable=False, max_length=300),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="created_by_kind",
            field=models.CharField(default="", editable=False, max_length=16),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="rate_limit",
            field=models.CharField(
                blank=True,
                help_text="As 600/m; empty: as RUNQY_RATE_LIMIT says.",
                max_length=16,
                validators=[runqy.accounts.validators.validate_rate_limit],
            ),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="vaults",
            field=models.JSONField(
                blank=True,
                default=list,
                help_text="Names of the vaults that a worker key is limited to; empty: all.",
                validators=[runqy.accounts.validators.validate_vault_names],
            ),
        ),
    ]
