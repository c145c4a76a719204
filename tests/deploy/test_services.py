"""The units of systemd and the manifests of Kubernetes agree with the code.

`.ci/release-check` also verifies them (steps systemd, kubernetes), and boots the units.
"""

import base64
import http.client
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.urls import resolve
from ruamel.yaml import YAML

from queues.api.demand_serializers import DemandQuerySerializer, QueueDemandSerializer
from runqy import settings
from tests.deploy.declared import SERVER_SETTINGS, WORKER_SETTINGS
from tests.support import environment
from tests.support.servers import free_port
from tests.support.waiting import wait_until
from workers.runtime.settings import WorkerSettings
from workers.runtime.worker_session import QUICK_STOP_S

pytestmark = pytest.mark.slow

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = {path.name: path.read_text() for path in sorted((DEPLOY / "systemd").glob("*.service"))}
MANIFESTS = [
    document
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in YAML(typ="safe", pure=True).load_all(path.read_text())
]
PODS = {
    one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in MANIFESTS if "template" in one.get("spec", {})
}


def find(kind: str, name: str) -> dict[str, Any]:
    """Return the manifest of an object."""
    return next(one for one in MANIFESTS if (one["kind"], one["metadata"]["name"]) == (kind, name))


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def commands() -> set[tuple[str, ...]]:
    """Return the command lines of all units and containers, without the folder of the program."""
    lines = [shlex.split(line) for text in UNITS.values() for line in re.findall(r"^ExecStart=(.*)$", text, re.M)]
    lines += [container["args"] for pod in PODS.values() for container in containers(pod)]
    return {(Path(program).name, *words) for program, *words in lines}


@pytest.mark.parametrize("name", [*UNITS, "runqy-manage"])
def test_every_variable_of_a_unit_is_a_setting(name: str) -> None:
    text = (DEPLOY / "systemd" / name).read_text()
    known = WORKER_SETTINGS if name.startswith("runqy-worker") else SERVER_SETTINGS
    named = {variable.removesuffix("_FILE") for variable in re.findall(r"\b([A-Z]+_[A-Z_]+)=", text)}

    assert len(named) > 2
    assert named <= known


def test_every_variable_of_a_pod_is_a_setting() -> None:
    variables = {name.removesuffix("_FILE") for name in find("ConfigMap", "runqy-server")["data"]}

    assert variables <= SERVER_SETTINGS
    for name, pod in PODS.items():
        own = {one["name"].removesuffix("_FILE") for container in containers(pod) for one in container.get("env", ())}
        assert own <= (WORKER_SETTINGS if "worker" in name else SERVER_SETTINGS), name


def test_pods_trust_no_proxy_until_the_operator_names_one() -> None:
    assert find("ConfigMap", "runqy-server")["data"]["RUNQY_TRUSTED_PROXIES"] == ""


@pytest.mark.parametrize("command", sorted(commands()), ids=" ".join)
def test_every_command_exists(command: tuple[str, ...]) -> None:
    program = Path(sys.executable).with_name(command[0])

    done = subprocess.run([program, *command[1:], "--help"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_processes_may_end_before_they_are_killed() -> None:
    # In a process of its own: importing the configuration sets the folder of a gunicorn's metrics.
    read = "from runqy import gunicorn_conf; print(gunicorn_conf.graceful_timeout)"
    graceful_s = int(subprocess.check_output([sys.executable, "-c", read], text=True))
    web_s = int(find("ConfigMap", "runqy-server")["data"]["RUNQY_DRAIN_S"]) + graceful_s
    worker_s = WorkerSettings.__dataclass_fields__["shutdown_timeout_s"].default + QUICK_STOP_S
    units = {name: int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[1]) for name, text in UNITS.items()}
    pods = {name: pod.get("terminationGracePeriodSeconds", 0) for name, pod in PODS.items()}

    assert settings.RUNQY_DRAIN_S == 0
    assert units["runqy-web.service"] > web_s
    assert pods["runqy-web"] > web_s
    assert units["runqy-worker@.service"] > worker_s
    assert pods["runqy-worker-greeter"] > worker_s


def test_pods_run_without_privileges_and_cannot_be_configured_by_services() -> None:
    for name, pod in PODS.items():
        assert pod["enableServiceLinks"] is False, name
        assert pod["securityContext"]["runAsNonRoot"], name
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_the_autoscaler_reads_a_figure_of_the_api_for_a_deployment() -> None:
    scaled = find("ScaledObject", "runqy-worker-greeter")["spec"]
    (trigger,) = scaled["triggers"]
    url = urlsplit(trigger["metadata"]["url"])
    authentication = find("TriggerAuthentication", trigger["authenticationRef"]["name"])["spec"]

    worker = find("Deployment", scaled["scaleTargetRef"]["name"])["spec"]["template"]["spec"]["containers"][0]
    assert resolve(url.path).kwargs == {
        "queue": next(one["value"] for one in worker["env"] if one["name"] == "RUNQY_QUEUES")
    }
    DemandQuerySerializer.validated(dict(parse_qsl(url.query)))
    assert trigger["metadata"]["valueLocation"] in QueueDemandSerializer().fields
    assert [one["parameter"] for one in authentication["secretTargetRef"]] == ["token"]


@pytest.mark.slow
def test_the_commands_of_the_manifests_bring_up_a_server(redis_server: None, tmp_path: Path) -> None:
    secrets = {
        "secret-key": "a-secret-key-of-manifests-that-is-long-enough-for-every-check",
        "vault-master-key": base64.b64encode(bytes(32)).decode(),
        "api-key": environment.ADMIN_KEY,
        "database-url": f"sqlite:///{tmp_path}/db.sqlite3",
        "redis-url": environment.SERVER.url,
    }
    folders = {"/run/secrets/runqy": secrets, "/etc/runqy/queues": find("ConfigMap", "runqy-queues")["data"]}
    assert secrets.keys() == find("Secret", "runqy-server")["stringData"].keys()
    for folder, files in folders.items():
        (tmp_path / folder[1:]).mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / folder[1:] / name).write_text(text)

    def moved(text: str) -> str:
        return f"{tmp_path}{text}" if text.startswith(tuple(folders)) else text

    port = free_port()
    env = {"PATH": os.environ["PATH"], "RUNQY_HOME": str(tmp_path / "home"), "PORT": str(port)}
    env |= {name: moved(text) for name, text in find("ConfigMap", "runqy-server")["data"].items()}
    env |= {"RUNQY_DRAIN_S": "0", "WEB_CONCURRENCY": "1"}  # nobody waits for this server's end
    bin_folder = Path(sys.executable).parent
    for container in containers(PODS["runqy-migrate"]):
        subprocess.run([bin_folder / container["args"][0], *map(moved, container["args"][1:])], env=env, check=True)
    words = PODS["runqy-web"]["containers"][0]["args"]
    web = subprocess.Popen([bin_folder / words[0], *words[1:]], env=env, cwd=tmp_path)

    try:
        for probe in ("startupProbe", "readinessProbe"):
            path = PODS["runqy-web"]["containers"][0][probe]["httpGet"]["path"]
            wait_until(lambda path=path: get_status(port, path) == 200, timeout_s=90)
    finally:
        web.terminate()
        web.wait(60)


def get_status(port: int, path: str) -> int:
    """Return the status of a response; 0 without one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
