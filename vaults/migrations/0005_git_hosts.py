from django.db import migrations, models

import vaults.validators


class Migration(migrations.Migration):
    """What exists stays a variable; queues.0004 declares the entries that queues refer to as git tokens."""

    dependencies = [("vaults", "0004_export_permission")]

    operations = [
        migrations.AddField(
            "vaultentry",
            "usage",
            models.CharField(
                choices=[("environment", "environment"), ("git_token", "git token"), ("both", "both")],
                default="environment",
                help_text="What it may be used for: a variable of tasks, a git token, or both.",
                max_length=16,
            ),
        ),
        migrations.AddField(
            "vaultentry",
            "git_hosts",
            models.JSONField(
                blank=True,
                default=list,
                help_text="Hosts that a git token may be sent to, such as github.com.",
                validators=[vaults.validators.validate_git_hosts],
            ),
        ),
    ]
