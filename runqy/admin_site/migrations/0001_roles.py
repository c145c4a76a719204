"""Create the staff roles."""

from django.db import migrations

from runqy.admin_site.roles import create_role_groups


class Migration(migrations.Migration):
    """Reversing keeps the groups, which may have members."""

    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [migrations.RunPython(lambda apps, _: create_role_groups(apps), migrations.RunPython.noop)]
