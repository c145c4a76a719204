"""Runs a real Prometheus on loopback, and asks it."""

import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from ruamel.yaml import YAML

from tests.support.servers import free_port
from tests.support.waiting import eventually, wait_until

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "docs" / "monitoring"


class Prometheus:
    """A Prometheus that scrapes one server every second, with the rules of docs/monitoring."""

    def __init__(self, folder: Path, *, target_port: int, token_file: Path) -> None:
        config: dict[str, Any] = YAML(typ="safe").load((MONITORING / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(MONITORING / "alerts.yml")]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{target_port}"]}]
        authorization = config["scrape_configs"][0]["authorization"]
        assert (MONITORING / authorization["credentials_file"]).resolve() == ROOT / ".runqy" / token_file.name
        authorization["credentials_file"] = str(token_file)
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        self.port = free_port()
        with (folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._is_ready, timeout_s=60)
        except AssertionError:
            self.close()
            raise

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the result of a query. Raise HTTPError for one with an error."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def wait_for(self, expression: str, *, timeout_s: float = 60) -> list[dict[str, Any]]:
        """Return the result of a query as soon as there is one: after a scrape that failed there is none."""
        return eventually(lambda: self.query(expression), within_s=timeout_s, what=lambda: expression)

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules as they were last evaluated."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def _get(self, name: str, **parameters: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/api/v1/{name}?{urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20) as response:
            content: dict[str, Any] = json.load(response)
        assert content["status"] == "success", content
        return dict(content["data"])
