"""A git server for tests, on https: plain files or git's own protocol, optionally with a token."""

import base64
import gzip
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.certificates import write_certificate
from tests.support.processes import command_lines
from tests.support.waiting import PATIENCE_S

HOST = "git.example.org"


class GitServer(ThreadingHTTPServer):
    """A server of a folder of bare repositories. Clients trust it if they trust `certificate`."""

    def __init__(self, folder: Path, certificate: Path, *, token: str = "", is_smart: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), partial(_SmartHandler if is_smart else _Handler, directory=str(folder)))
        self.token, self.certificate = token, certificate
        self.paths: list[str] = []
        # The command lines of all processes at the time of each request with a token.
        self.command_lines: list[bytes] = []
        # The Authorization headers of all requests.
        self.authorizations: list[str] = []
        # The server that `/moved/...` redirects to; empty for this one.
        self.moved_to = ""
        self.is_silent = threading.Event()
        # Whether connections are cut instead of a response.
        self.is_broken = threading.Event()
        # Whether the list of branches has no end.
        self.is_endless = threading.Event()
        self.released = threading.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def url(self, name: str) -> str:
        return f"https://127.0.0.1:{self.port}/{name}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore disconnects."""


class _Handler(SimpleHTTPRequestHandler):
    server: GitServer

    def do_GET(self) -> None:
        """Check the token. `/moved/...` redirects elsewhere, and a name without `.git` to that with it."""
        self.server.paths.append(self.path)
        if self.server.is_silent.is_set():
            self.server.released.wait(2 * PATIENCE_S)
            return
        if self.server.is_broken.is_set():
            self.close_connection = True
            return
        if self.server.is_endless.is_set():
            self._list_branches_forever()
            return
        name, _, rest = self.path.removeprefix("/").partition("/info/")
        if self.path.startswith("/moved/"):
            self._respond(301, "Location", self.server.moved_to + self.path.removeprefix("/moved"))
        elif rest and not name.endswith(".git"):
            self._respond(301, "Location", f"/{name}.git/info/{rest}")
        elif self.server.token and not self._has_token():
            self._respond(401, "WWW-Authenticate", 'Basic realm="git"')
        else:
            self.serve()

    def serve(self) -> None:
        """Serve a client that is allowed to read."""
        super().do_GET()

    def _has_token(self) -> bool:
        """Return whether the request has the token, and record its credentials and all command lines."""
        authorization = self.headers.get("Authorization", "")
        if authorization:
            self.server.authorizations.append(authorization)
            self.server.command_lines += command_lines()
        expected = base64.b64encode(f"x-access-token:{self.server.token}".encode()).decode()
        return authorization == f"Basic {expected}"

    def _list_branches_forever(self) -> None:
        """Send the start of a list, and branches until the client disconnects."""
        self.send_response(200)
        self.send_header("Content-Type", "application/x-git-upload-pack-advertisement")
        self.end_headers()
        self.wfile.write(b"001e# service=git-upload-pack\n0000")
        line = b"%040x refs/heads/%01000d\n" % (1, 1)
        try:
            while True:
                self.wfile.write((b"%04x" % (len(line) + 4) + line) * 1000)
        except OSError:
            self.close_connection = True

    def _respond(self, status: int, name: str, value: str) -> None:
        self.send_response(status)
        self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


class _SmartHandler(_Handler):
    """Run git's own program, as hosting services do. Only with it a fetch can be shallow."""

    do_POST = _Handler.do_GET  # noqa: N815 (http.server's spelling)

    def serve(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": self.directory,
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def git_server(folder: Path, *, token: str = "", is_smart: bool = False) -> Iterator[GitServer]:
    """Run a server for a folder of bare repositories."""
    certificate = folder / "certificate.pem"
    if not certificate.exists():
        write_certificate(certificate, HOST)
    server = GitServer(folder, certificate, token=token, is_smart=is_smart)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
