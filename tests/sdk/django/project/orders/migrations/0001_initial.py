from django.db import migrations


class Migration(migrations.Migration):
    """Changes nothing, and is applied nowhere."""
