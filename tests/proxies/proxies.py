"""Run nginx, Caddy and Traefik with the configurations of docs/how-to/behind-a-proxy.md."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any

from tests.docs.blocks import read_titled
from tests.support.certificates import write_certificate
from tests.support.environment import ADMIN_KEY
from tests.support.servers import free_port
from tests.support.waiting import wait_until

NAME, SERVER = "runqy.example.com", "127.0.0.1:3000"
CLIENT = "127.0.0.2"
"""The address of the tests, which is not that of the proxy."""


class Proxy:
    """A running proxy that serves https://localhost:PORT."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.certificate = folder / "certificate.pem"
        self.log = folder / "proxy.log"
        write_certificate(self.certificate, "localhost")

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @contextmanager
    def send(self, method: str, path: str, body: object = None, **headers: str) -> Iterator[HTTPResponse]:
        """Send a request from another address of this machine."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        connection = HTTPSConnection("localhost", self.port, timeout=120)
        plain = socket.create_connection(("127.0.0.1", self.port), source_address=(CLIENT, 0), timeout=120)
        connection.sock = context.wrap_socket(plain, server_hostname="localhost")
        ours = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), ours | headers)
        with closing(connection), connection.getresponse() as response:
            yield response

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of a response."""
        with self.send(method, path, body) as response:
            return response.status, json.loads(response.read())

    def ready_workers(self) -> int:
        """Return how many workers are ready."""
        return sum(worker["state"] == "ready" for worker in self.ask("GET", "/api/cli/workers")[1]["workers"])

    def responds(self) -> bool:
        try:
            with self.send("GET", "/readyz") as response:
                return response.status == 200
        except OSError:
            return False


def _nginx(proxy: Proxy, servers: Sequence[str]) -> list[str]:
    site = read_titled("docs/how-to/behind-a-proxy.md")["/etc/nginx/conf.d/runqy.conf"]
    (line,) = [line for line in site.splitlines() if SERVER in line]
    site = site.replace(line, "\n".join(line.replace(SERVER, server) for server in servers))
    site = site.replace("listen 443", f"listen 127.0.0.1:{proxy.port}").replace(NAME, "localhost")
    site = re.sub(r"/etc/ssl/\S+\.pem", str(proxy.certificate), site)
    paths = "".join(
        f"{kind}_temp_path {proxy.folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root; " if os.geteuid() == 0 else ""  # another user could not use the folder of a test
    (proxy.folder / "nginx.conf").write_text(
        f"{user}daemon off; pid {proxy.folder}/pid; error_log {proxy.log};\nevents {{}}\n"
        f"http {{\naccess_log off;\n{paths}{site}\n}}\n"
    )
    return ["nginx", "-e", str(proxy.log), "-c", str(proxy.folder / "nginx.conf")]


def _caddy(proxy: Proxy, servers: Sequence[str]) -> list[str]:
    site = read_titled("docs/how-to/behind-a-proxy.md")["/etc/caddy/Caddyfile"].replace(SERVER, " ".join(servers))
    own = f"https://localhost:{proxy.port} {{\n    tls {proxy.certificate} {proxy.certificate}"
    text = "{\n    admin off\n    auto_https off\n}\n" + site.replace(f"{NAME} {{", own)
    (proxy.folder / "Caddyfile").write_text(text)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(proxy.folder / "Caddyfile")]


def _traefik(proxy: Proxy, servers: Sequence[str]) -> list[str]:
    site = read_titled("docs/how-to/behind-a-proxy.md")["/etc/traefik/dynamic/runqy.yaml"].replace(NAME, "localhost")
    (line,) = [line for line in site.splitlines() if SERVER in line]
    site = site.replace(line, "\n".join(line.replace(SERVER, server) for server in servers))
    own = f"tls:\n  certificates: [{{certFile: {proxy.certificate}, keyFile: {proxy.certificate}}}]\n"
    (proxy.folder / "dynamic.yaml").write_text(own + site)
    return [
        "traefik",
        "--log.level=DEBUG",
        "--log.noColor=true",
        f"--entryPoints.websecure.address=127.0.0.1:{proxy.port}",
        f"--providers.file.filename={proxy.folder / 'dynamic.yaml'}",
    ]


KINDS: dict[str, Callable[[Proxy, Sequence[str]], list[str]]] = {
    "nginx": _nginx,
    "caddy": _caddy,
    "traefik": _traefik,
}


@contextmanager
def run_proxy(kind: str, folder: Path, ports: Sequence[int]) -> Iterator[Proxy]:
    """Run a proxy in front of servers on this machine's ports."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    proxy = Proxy(folder)
    command = KINDS[kind](proxy, [f"127.0.0.1:{port}" for port in ports])
    assert shutil.which(command[0]), f"{command[0]} is not installed"
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=_environment(folder), stdout=output, stderr=output)
    try:
        wait_until(lambda: proxy.responds() or process.poll() is not None)
        assert process.poll() is None, (folder / "output").read_text()
        yield proxy
    finally:
        process.terminate()
        process.wait(60)


def read_event(response: HTTPResponse) -> str:
    """Return the name of the next event of a stream, without waiting for those after it."""
    while line := response.readline():
        if line.startswith(b"event:"):
            return line.decode().removeprefix("event:").strip()
    raise EOFError("the stream ended")


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/bin:" + _path(), "HOME": str(folder), "XDG_DATA_HOME": str(folder)}


def _path() -> str:
    return str(Path(found).parent) if (found := shutil.which("traefik")) else ""
