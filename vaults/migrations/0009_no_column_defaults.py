from django.db import migrations, models

import vaults.validators


class Migration(migrations.Migration):
    dependencies = [
        ("vaults", "0008_no_exports"),
    ]

    operations = [
        migrations.AlterField(
            model_name="vaultentry",
            name="git_hosts",
            field=models.JSONField(
                blank=True,
                default=list,
                help_text="Hosts that a git token may be sent to, such as github.com.",
                validators=[vaults.validators.validate_git_hosts],
            ),
        ),
        migrations.AlterField(
            model_name="vaultentry",
            name="usage",
            field=models.CharField(
                choices=[("environment", "environment"), ("git_token", "git token"), ("both", "both")],
                default="environment",
                help_text="What it may be used for: a variable of tasks, a git token, or both.",
                max_length=16,
            ),
        ),
    ]
