from django.db import migrations

import tasks.models


class Migration(migrations.Migration):
    """The columns stay as they are: SQLite would copy the table, and lose the triggers of its full-text index.

    A row that SQLite stored with a NUL in this column is not found by its id any more; no worker of ours writes one.
    """

    dependencies = [
        ("tasks", "0007_permission_names"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AlterField("bulkactionitem", "task_id", tasks.models.RedisTextField(max_length=255)),
                migrations.AlterField("taskcopy", "original_id", tasks.models.RedisTextField(max_length=255)),
                migrations.AlterField("taskcopy", "copy_id", tasks.models.RedisTextField(max_length=255)),
                migrations.AlterField("taskrun", "task_id", tasks.models.RedisTextField(max_length=255)),
            ]
        )
    ]
