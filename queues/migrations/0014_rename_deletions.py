from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("queues", "0013_memory_limits"),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name="queuedeletion",
            name="one_removal_for_each_queue",
        ),
        migrations.AlterField(
            model_name="queue",
            name="hide_payloads",
            field=models.BooleanField(
                default=False,
                help_text="Leave payloads, results and tracebacks out of the history of runs, and hide them from viewers.",
            ),
        ),
        migrations.AlterField(
            model_name="queuedeletion",
            name="lease",
            field=models.CharField(blank=True, max_length=32),
        ),
        migrations.AlterField(
            model_name="queuedeletion",
            name="leased_until",
            field=models.DateTimeField(),
        ),
        migrations.AddConstraint(
            model_name="queuedeletion",
            constraint=models.UniqueConstraint(
                fields=("queue", "sub_queue", "is_whole"), name="one_deletion_for_each_queue"
            ),
        ),
        migrations.AlterModelTable(
            name="queuedeletion",
            table=None,
        ),
    ]
