"""What a process runs of a Django project, for `manage.py runqy_check`: that of a worker, and that of the site."""

from __future__ import annotations

import os
import subprocess
from importlib import import_module
from pathlib import Path

import django
from django.db import DEFAULT_DB_ALIAS, Error, connections
from django.db.migrations.executor import MigrationExecutor

_SHOWN_MIGRATIONS = 3


def describe_deployment() -> dict[str, str]:
    """Return the versions, commit and database of this process. Members that are unknown are empty."""
    names = {"settings": "DJANGO_SETTINGS_MODULE", "commit": "RUNQY_COMMIT", "worker": "RUNQY_WORKER_ID"}
    versions = {"django": django.get_version()} | {name: os.environ.get(key, "") for name, key in names.items()}
    return versions | {"database": describe_database(), "database_problem": _find_database_problem()}


def describe_database() -> str:
    """Return the vendor of the default database, and of SQLite the file; empty without one."""
    connection = connections[DEFAULT_DB_ALIAS]
    if connection.vendor == "sqlite":
        return f"sqlite {Path(connection.settings_dict['NAME']).resolve()}"
    return "" if connection.vendor == "unknown" else connection.vendor


def find_head() -> str:
    """Return the commit that the settings' folder is a checkout of; empty if it is none."""
    file = import_module(os.environ["DJANGO_SETTINGS_MODULE"]).__file__
    try:
        command = ["git", "rev-parse", "HEAD"]
        found = subprocess.run(command, cwd=Path(str(file)).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, no repository, no commit
        return ""
    return found.stdout.strip()


def _find_database_problem() -> str:
    """Return what the default database lacks; empty if it lacks nothing."""
    connection = connections[DEFAULT_DB_ALIAS]
    if connection.vendor == "unknown":
        return ""
    try:
        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except Error as error:
        return f"cannot be used: {error}"
    names = [f"{migration.app_label}.{migration.name}" for migration, _ in plan]
    more = f" and {len(names) - _SHOWN_MIGRATIONS} more" if len(names) > _SHOWN_MIGRATIONS else ""
    return f"has unapplied migrations: {', '.join(names[:_SHOWN_MIGRATIONS])}{more}" if names else ""
