import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


def _find_users(apps, schema_editor) -> None:
    """Point keys to the users of the names that are recorded; a user who was deleted or renamed is not found."""
    keys = apps.get_model("accounts", "ApiKey").objects.filter(created_by_kind="user")
    for pk, name in apps.get_model(settings.AUTH_USER_MODEL).objects.values_list("pk", "username"):
        keys.filter(created_by=name).update(created_by_user=pk)


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0008_allow_shared_redis"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            "apikey",
            "created_by_user",
            models.ForeignKey(
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.RunPython(_find_users, migrations.RunPython.noop),
    ]
