"""What the page on production finds on its machine: PostgreSQL, Valkey, a proxy with HTTPS and a repository."""

import http.client
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.certificates import write_certificate
from tests.support.postgresql import PostgresqlServer, find_programs
from tests.support.servers import ValkeyServer

PASSWORD = "a password of the tests"
GREETER = """\
from runqy_sdk import run, task


@task
def greet(payload):
    return {"text": f"Hello, {payload['name']}!"}


run()
"""


@contextmanager
def services(home: Path, port: int) -> Iterator[dict[str, str]]:
    """Run the services for a server on a port, and yield the variables of a reader who has set them up."""
    programs = find_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL")
    valkey, postgresql = ValkeyServer().start(), PostgresqlServer(programs).start()
    certificate = home / "certificate.pem"
    write_certificate(certificate, "runqy.example.com")
    try:
        valkey.client().config_set("requirepass", PASSWORD)
        secrets = home / "production/secrets"
        secrets.mkdir(parents=True)
        (secrets / "database-url").write_text(f"{postgresql.url}\n")
        (secrets / "redis-url").write_text(
            f"redis://default:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{valkey.port}/0\n"
        )
        with https_proxy(port, certificate) as public:
            yield {
                "PUBLIC_URL": f"https://localhost:{public}",
                "WORKERS_REDIS": valkey.url,
                "GIT_URL": make_repository(home / "greeter"),
                "SSL_CERT_FILE": str(certificate),
                "CURL_CA_BUNDLE": str(certificate),
            }
    finally:
        valkey.stop()
        postgresql.stop()


def make_repository(folder: Path) -> str:
    folder.mkdir()
    (folder / "main.py").write_text(GREETER)
    (folder / "requirements.txt").write_text("runqy-sdk\n")
    git = ("git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.com")
    for command in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "greeter")):
        subprocess.run([*git, *command], check=True)
    return folder.as_uri()


@contextmanager
def https_proxy(port: int, certificate: Path) -> Iterator[int]:
    """Serve HTTPS in front of a server, with the headers of a proxy. Yield the port."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {**self.headers, "X-Forwarded-Proto": "https", "X-Forwarded-For": self.client_address[0]}
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
            upstream.request(self.command, self.path, body, headers)
            response = upstream.getresponse()
            content = response.read()
            self.send_response(response.status)
            self.send_header("Content-Type", response.headers.get("Content-Type", "text/plain"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            upstream.close()

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 (http.server's spelling)

        def log_message(self, *_: object) -> None: ...

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()
