"""Give the staff roles their permissions for alerts."""

from django.db import migrations

from runqy.admin_site.roles import add_permissions


class Migration(migrations.Migration):
    """Reversing keeps the permissions."""

    dependencies = [("staff", "0001_roles"), ("alerts", "0001_initial")]

    operations = [migrations.RunPython(lambda apps, _: add_permissions(apps, "alerts"), migrations.RunPython.noop)]
