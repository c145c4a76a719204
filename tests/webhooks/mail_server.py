"""A mail server that keeps what it receives."""

import socketserver
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest


class MailServer:
    """A mail server on loopback."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.recipient_reply = "250 ok"
        sink = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.say("220 sink")
                while line := self.rfile.readline().decode().strip():
                    match line.split(" ")[0].upper():
                        case "DATA":
                            self.say("354 go on")
                            sink.messages.append(self.read_message())
                            self.say("250 ok")
                        case "RCPT":
                            self.say(sink.recipient_reply)
                        case "QUIT":
                            self.say("221 bye")
                            return
                        case _:
                            self.say("250 ok")

            def say(self, text: str) -> None:
                self.wfile.write(f"{text}\r\n".encode())

            def read_message(self) -> EmailMessage:
                lines = []
                while (line := self.rfile.readline()) != b".\r\n":
                    lines.append(line)
                found = message_from_bytes(b"".join(lines), policy=policy.default)
                assert isinstance(found, EmailMessage)
                return found

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def mail_server(settings) -> Iterator[MailServer]:
    """A mail server, which is that of the settings."""
    found = MailServer()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"  # in tests Django replaces it
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", found.port
    settings.DEFAULT_FROM_EMAIL = "runqy <runqy@example.com>"
    yield found
    found.server.shutdown()
    found.server.server_close()
