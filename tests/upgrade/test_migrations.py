"""Migrations can be undone."""

import pytest

from tests.upgrade.conftest import Commands

APPS = (
    "admin_site",
    "alerts",
    "batches",
    "schedules",
    "webhooks",
    "workers",
    "tasks",
    "queues",
    "vaults",
    "accounts",
    "audit",
    "config_sync",
)

pytestmark = pytest.mark.slow


UNDO_ALL = f"""
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

MigrationExecutor(connection).migrate([(app, None) for app in {APPS}])
applied = MigrationExecutor(connection).loader.applied_migrations
assert not {{app for app, _ in applied}} & set({APPS}), applied
"""
"""One plan for all apps: the command undoes one app, and reads the state of all of them each time."""


def test_the_migrations_of_each_app_can_be_undone_and_applied_again(run_commands: Commands) -> None:
    undo = ("shell", "--no-imports", "-c", UNDO_ALL, "--")

    run_commands("migrate", "-v0", "--", *undo, "migrate", "-v0", "--", "migrate", "--check")
