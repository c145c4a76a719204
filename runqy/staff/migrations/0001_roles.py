"""Makes the roles of staff."""

from django.db import migrations

from runqy.staff.roles import grant_roles


class Migration(migrations.Migration):
    """Groups are kept when this is undone: people may be in them."""

    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [migrations.RunPython(lambda apps, _: grant_roles(apps), migrations.RunPython.noop)]
