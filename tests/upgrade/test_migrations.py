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


def test_the_migrations_of_each_app_can_be_undone_and_applied_again(run_commands: Commands) -> None:
    undo = [word for app in APPS for word in ("migrate", app, "zero", "-v0", "--")]

    run_commands("migrate", "-v0", "--", *undo, "migrate", "-v0", "--", "migrate", "--check")
