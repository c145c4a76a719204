from typing import Any

from django.db import migrations

NAMES = (
    ("enqueue_task", "Can enqueue tasks"),
    ("run_task", "Can run tasks"),
    ("cancel_task", "Can cancel tasks"),
    ("archive_task", "Can archive tasks"),
    ("delete_task", "Can delete tasks"),
    ("view_payload", "Can view hidden payloads, results and errors"),
)


def rename_permissions(apps: Any, schema_editor: Any) -> None:
    """Rename permissions that exist: Django names them once, when it creates them."""
    permissions = apps.get_model("auth", "Permission").objects.filter(content_type__app_label="tasks")
    for codename, name in NAMES:
        permissions.filter(codename=codename).update(name=name)


class Migration(migrations.Migration):
    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("tasks", "0006_pruned_runs"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="task",
            options={
                "default_permissions": ("view",),
                "managed": False,
                "permissions": NAMES,
            },
        ),
        migrations.RunPython(rename_permissions, migrations.RunPython.noop),
    ]
