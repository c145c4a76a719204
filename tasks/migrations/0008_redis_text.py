from django.db import migrations

import tasks.fields


class Migration(migrations.Migration):
    """The columns stay as they are: SQLite would copy the table, and lose the triggers of its full-text index."""

    dependencies = [
        ("tasks", "0007_permission_names"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AlterField("bulkactionitem", "task_id", tasks.fields.RedisTextField(max_length=255)),
                migrations.AlterField("taskrun", "task_id", tasks.fields.RedisTextField(max_length=255)),
            ]
        )
    ]
