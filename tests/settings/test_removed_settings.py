"""Settings that are no longer read, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from runqy.core.environment.variables import Environment, warn_of_removed

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_server_logs_each_removed_setting_that_is_set_once_and_starts(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "RUNQY_HOME": str(tmp_path),
        "RUNQY_BODY_MEMORY": "never-a-size",
        "RUNQY_DELIVERIES_KEPT": "",
        "RUNQY_REGISTRATION_LIMIT_FILE": "/nowhere",
    }
    command = [sys.executable, "-c", "import runqy.wsgi"]

    started = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)

    logged = [json.loads(line) for line in started.stderr.splitlines() if "setting_removed" in line]
    assert [(entry["setting"], entry["instead"], entry["level"]) for entry in logged] == [
        ("RUNQY_BODY_MEMORY", "Bodies may take five times RUNQY_MAX_BODY_SIZE.", "warning"),
        ("RUNQY_REGISTRATION_LIMIT", "Each API key may register 1,200 workers a minute.", "warning"),
    ]
    assert "never-a-size" not in started.stderr


def test_the_configuration_file_of_a_removed_setting_is_named() -> None:
    env = Environment({"SOME_NAME": "1s"}, {"SOME_NAME": "section.name in the configuration file"})

    with capture_logs() as logs:
        warn_of_removed(env.find_removed({"SOME_NAME": "It is 2 s.", "OTHER_NAME": "It is 3 s."}))

    assert [(entry["setting"], entry["instead"]) for entry in logs if "setting" in entry] == [
        ("SOME_NAME (section.name in the configuration file)", "It is 2 s.")
    ]
