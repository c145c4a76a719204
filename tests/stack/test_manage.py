"""`runqy manage` runs management commands where there is no manage.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECORDED = """
import json
from runqy.audit.models import AuditRecord
print(json.dumps(list(AuditRecord.objects.values_list("actor_name", "object_name"))))
"""

pytestmark = pytest.mark.slow


def test_management_commands_run_outside_of_a_clone_and_are_recorded(tmp_path: Path) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}

    def manage(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "runqy.cli", "manage", *words],
            cwd=tmp_path,
            env=kept | {"RUNQY_HOME": str(tmp_path / "home")} | variables,
            capture_output=True,
            text=True,
        )

    assert manage("migrate", "--no-input", "-v0").returncode == 0
    created = manage(
        "createsuperuser", "--no-input", "--username=ada", "--email=", DJANGO_SUPERUSER_PASSWORD="a-Password-1"
    )
    assert created.returncode == 0, created.stderr
    recorded = manage("shell", "-c", RECORDED)

    assert json.loads(recorded.stdout.splitlines()[-1]) == [["createsuperuser", "ada"]], recorded.stderr
    assert "unrecognized arguments: --nonsense" in manage("migrate", "--nonsense").stderr
