"""Make a release that has a migration more than this one."""

import shutil
import sys
from pathlib import Path

from runqy.core.environment.own_packages import APPS

ROOT = Path(__file__).parents[2]
PACKAGES = ("runqy", *APPS)
MIGRATION = """
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("queues", "{newest}")]
    operations = [
        migrations.RunSQL("CREATE TABLE of_the_new_release (id integer)"),
        migrations.RunSQL("ALTER TABLE queues_queue ADD COLUMN of_the_new_release integer"),
    ]
"""


def make_release(folder: Path) -> Path:
    """Return the folder of an environment whose `bin/runqy` is the new release."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    migrations = folder / "queues/migrations"
    newest = max(migration.stem for migration in migrations.glob("0*.py"))
    (migrations / "0999_of_the_new_release.py").write_text(MIGRATION.format(newest=newest))
    (folder / "bin").mkdir()
    program = folder / "bin/runqy"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} -P -m runqy.cli "$@"\n')
    program.chmod(0o755)
    return folder
