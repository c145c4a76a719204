import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("webhooks", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="delivery",
            name="body_bytes",
            field=models.PositiveIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="endpoint",
            name="dropped",
            field=models.PositiveIntegerField(db_default=0, default=0, editable=False),
        ),
        migrations.AddField(
            model_name="endpoint",
            name="in_flight",
            field=models.PositiveSmallIntegerField(
                db_default=16,
                default=16,
                help_text="How many messages are sent to it at once; fewer while they fail.",
                validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(100)],
            ),
        ),
        migrations.AlterField(
            model_name="endpoint",
            name="is_enabled",
            field=models.BooleanField(
                default=True,
                help_text="What ends while you have disabled it is not sent later either; what was due before waits.",
                verbose_name="enabled",
            ),
        ),
    ]
