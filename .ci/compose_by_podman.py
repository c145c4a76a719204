"""Start the services of compose.yaml by podman, as Docker Compose would: in order, each when its conditions are met.

For machines without Docker Compose. Health checks are run from here, because podman leaves them to systemd. Values come
from the environment; what compose.yaml does not use is not supported.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PROJECT = "runqy"
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
TIMEOUT_S = 300


def podman(*args: str) -> str:
    return subprocess.run(["podman", *args], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def read_compose() -> dict[str, Any]:
    text = (ROOT / "compose.yaml").read_text()
    filled = VARIABLE.sub(lambda match: os.environ.get(match[1]) or match[2] or "", text)
    compose: dict[str, Any] = YAML(typ="safe", pure=True).load(filled)
    return compose


def run_arguments(name: str, service: dict[str, Any]) -> list[str]:
    args = ["--detach", "--no-healthcheck", f"--name={PROJECT}-{name}"]
    args += [f"--env={key}={value}" for key, value in service.get("environment", {}).items()]
    args += [f"--volume={PROJECT}-{volume}" for volume in service.get("volumes", [])]
    args += [f"--tmpfs={tmpfs}" for tmpfs in service.get("tmpfs", [])]
    args += [f"--cap-drop={capability.lower()}" for capability in service.get("cap_drop", [])]
    args += [f"--cap-add={capability}" for capability in service.get("cap_add", [])]
    args += [f"--security-opt={option.removesuffix(':true')}" for option in service.get("security_opt", [])]
    args += [f"--publish={port}" for port in service.get("ports", [])]
    args += ["--read-only", "--read-only-tmpfs=false"] if service.get("read_only") else []
    args += [f"--user={service['user']}"] if "user" in service else []
    args += [f"--shm-size={service['shm_size']}"] if "shm_size" in service else []
    if "network_mode" in service:
        args.append(f"--network={service['network_mode']}")
    else:
        networks = service.get("networks", ["default"])
        args += [f"--network={PROJECT}-{network}:alias={name}" for network in networks]
    return [*args, service["image"], *service.get("command", [])]


def health_check(service: dict[str, Any]) -> list[str]:
    """Return the command that checks the health of a service: its own, or that of its image."""
    test = service.get("healthcheck", {}).get("test")
    if test is None:
        test = json.loads(podman("image", "inspect", "--format={{json .HealthCheck}}", service["image"]))["Test"]
    return test[1:] if test[0] == "CMD" else ["sh", "-c", test[1]]


def wait_for(name: str, condition: str, service: dict[str, Any]) -> None:
    container, deadline = f"{PROJECT}-{name}", time.monotonic() + TIMEOUT_S
    if condition == "service_completed_successfully":
        if podman("wait", container) != "0":
            sys.exit(f"{name} failed: {podman('logs', container)}")
        return
    command = ["podman", "exec", container, *health_check(service)]
    while subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
        if time.monotonic() > deadline or podman("inspect", "--format={{.State.Running}}", container) != "true":
            subprocess.run(["podman", "logs", container], check=False)
            sys.exit(f"{name} is not healthy after {TIMEOUT_S} s, or has ended")
        time.sleep(1)


def up(compose: dict[str, Any]) -> None:
    for network in compose["networks"]:
        # None is internal: where a Docker daemon runs too, its firewall would drop what containers send each other.
        podman("network", "create", f"{PROJECT}-{network}")
    services, started = compose["services"], set[str]()
    while started != services.keys():
        name = next(
            name
            for name, service in services.items()
            if name not in started and {*service.get("depends_on", {})} <= started
        )
        for needed, condition in services[name].get("depends_on", {}).items():
            wait_for(needed, condition["condition"], services[needed])
        podman("run", *run_arguments(name, services[name]))
        print(f"{name} started", flush=True)
        started.add(name)


def down(compose: dict[str, Any]) -> None:
    for command in (
        *(["rm", "--force", "--time=0", f"{PROJECT}-{name}"] for name in compose["services"]),
        *(["volume", "rm", "--force", f"{PROJECT}-{name}"] for name in compose["volumes"]),
        *(["network", "rm", "--force", f"{PROJECT}-{name}"] for name in compose["networks"]),
    ):
        subprocess.run(["podman", *command], check=False, capture_output=True)


if __name__ == "__main__":
    {"up": up, "down": down}[sys.argv[1]](read_compose())
