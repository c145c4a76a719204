"""The import contracts hold, and each of them detects a violation."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runqy.core.environment.own_packages import APPS

ROOT = Path(__file__).parents[2]
PACKAGES = ("runqy", *APPS)

VIOLATIONS = [
    pytest.param("queues/operations.py", "import tasks.operations", "Imports go down", id="up-the-apps"),
    pytest.param("runqy/broker/constants.py", "import vaults.models", "Imports go down", id="broker-imports-an-app"),
    pytest.param("tasks/queries.py", "import runqy.settings", "Imports go down", id="app-imports-settings"),
    pytest.param("tasks/operations.py", "import runqy.broker.keys", "spells Redis keys", id="keys-outside-broker"),
    pytest.param(
        "runqy/broker/tasks/lease.py",
        "import runqy.broker.duties.janitor",
        "packages of the broker",
        id="up-the-broker",
    ),
    pytest.param("workers/operations.py", "import queues.admin", "another app's views", id="admin-of-another-app"),
    pytest.param("vaults/operations.py", "import runqy.api.views", "import no HTTP", id="views-in-operations"),
    pytest.param("tasks/queries.py", "import rest_framework.response", "import no HTTP", id="drf-in-queries"),
    pytest.param("vaults/models.py", "import vaults.operations", "these the models", id="operations-in-models"),
    pytest.param(
        "queues/operations.py",
        "import queues.definition_serializers",
        "above the operations",
        id="serializers-in-operations",
    ),
    pytest.param(
        "queues/pending_deletions.py", "import runqy.api.serializers", "import no HTTP", id="http-behind-operations"
    ),
    pytest.param(
        "tasks/history/retention.py", "import tasks.actions", "history of runs knows", id="actions-in-history"
    ),
    pytest.param("tasks/history/rows.py", "import tasks.history.rollups", "above rollups", id="rollups-in-rows"),
    pytest.param("workers/runtime/main.py", "import django.conf", "without Django", id="django-in-worker"),
    pytest.param("queues/definitions.py", "import queues.models", "without Django", id="django-behind-queue-files"),
    pytest.param(
        "runqy/audit/operations.py", "import runqy.accounts.models", "Imports go down", id="audit-imports-an-app"
    ),
    pytest.param(
        "runqy/admin_site/base_admin.py",
        "import runqy.audit.models",
        "Imports go down",
        id="admin-site-imports-an-app",
    ),
    pytest.param(
        "runqy/maintenance/loops.py", "import tasks.queries", "Imports go down", id="maintenance-knows-an-app"
    ),
    pytest.param("tasks/queries.py", "import queues.duties", "are discovered", id="duty-of-another-app"),
    pytest.param(
        "runqy/api/requests.py", "import runqy.accounts.queries", "Imports go down", id="api-imports-accounts"
    ),
    pytest.param("runqy/clock.py", "import runqy.broker.states", "Imports go down", id="clock-imports-broker"),
    pytest.param("runqy/core/signing.py", "import runqy.broker.states", "Imports go down", id="core-imports-broker"),
    pytest.param("vaults/queries.py", "import runqy.server.health", "Imports go down", id="app-imports-server"),
    pytest.param(
        "runqy/server/framework.py", "import runqy.stack.locks", "Imports go down", id="server-imports-what-starts-it"
    ),
    pytest.param(
        "runqy/core/formats/sizes.py", "import runqy.core.git.sources", "packages of the core", id="up-the-core"
    ),
    pytest.param(
        "webhooks/sender.py", "import tasks.api.calls", "share the API of tasks", id="api-of-tasks-in-webhooks"
    ),
]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of the tree in a folder."""
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the packages that the contracts are about, with all violations."""
    tree = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", tree)
    for module, planted, _ in (violation.values for violation in VIOLATIONS):
        with (tree / str(module)).open("a") as file:
            file.write(f"\n{planted}\n")
    return tree


@pytest.fixture(scope="module")
def broken(tree: Path) -> dict[str, str]:
    """Return the imports that break each contract."""
    result = lint_imports(tree)
    assert result.returncode == 1
    sections = re.split(r"^(.+)\n-+\n", result.stdout.partition("Broken contracts\n")[2], flags=re.MULTILINE)
    return dict(zip(sections[1::2], sections[2::2], strict=True))


def test_the_project_keeps_every_contract() -> None:
    result = lint_imports(ROOT)

    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(("module", "planted", "contract"), VIOLATIONS)
def test_a_planted_violation_is_detected(broken: dict[str, str], module: str, planted: str, contract: str) -> None:
    importer, imported = module.removesuffix(".py").replace("/", "."), planted.removeprefix("import ")
    if imported.partition(".")[0] not in PACKAGES:  # an external package counts as one
        imported = imported.partition(".")[0]

    (found,) = [imports for name, imports in broken.items() if contract in name]

    assert f"{importer} -> {imported} (l." in found


def test_each_folder_has_a_layer() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    layers = set(re.findall(r"[\w.]+", contracts["importlinter:contract:layers"]["layers"]))

    modules = {
        path.stem for path in (ROOT / "runqy").iterdir() if (path / "__init__.py").exists() or path.suffix == ".py"
    }

    assert layers == {*APPS, *(f"runqy.{name}" for name in modules - {"__init__"})}


def test_ruff_detects_http_in_an_operation(tree: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tree)
    path = tree / "queues/operations.py"
    path.write_text(f"from django.http import HttpRequest\n{path.read_text()}")

    result = subprocess.run(
        [Path(sys.executable).parent / "ruff", "check", "--no-cache", "--select", "TID251", "."],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 1
    assert "only views, admin and middleware know HTTP" in result.stdout
