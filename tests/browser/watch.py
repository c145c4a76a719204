"""What a page may not do: log errors, get responses with 500, request anything from another origin."""

import re
from dataclasses import dataclass, field

from playwright.sync_api import ConsoleMessage, Error, Page, Request, Response


@dataclass(kw_only=True)
class Watch:
    """What a page did that it should not have done."""

    origin: str
    expected: list[str] = field(default_factory=list)
    """Patterns of what a test provokes; append to it."""
    seen: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        """Listen to a page. Chromium reports violations of the Content-Security-Policy as errors on the console."""
        page.on("console", self._hear)
        page.on("pageerror", self._note_error)
        page.on("request", self._note_request)
        page.on("response", self._note_response)

    def leave(self, page: Page) -> None:
        """Listen to a page no longer."""
        page.remove_listener("console", self._hear)
        page.remove_listener("pageerror", self._note_error)
        page.remove_listener("request", self._note_request)
        page.remove_listener("response", self._note_response)

    def unexpected(self) -> list[str]:
        """Return what no test has provoked."""
        return [message for message in self.seen if not any(re.search(pattern, message) for pattern in self.expected)]

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.seen.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _note_error(self, error: Error) -> None:
        self.seen.append(f"error in a script: {error}")

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.origin}/", "data:", "blob:")):
            self.seen.append(f"request to another origin: {request.url}")

    def _note_response(self, response: Response) -> None:
        if response.status >= 500:
            self.seen.append(f"status {response.status}: {response.url}")
