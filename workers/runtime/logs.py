"""The worker's log on stderr: readable on a terminal, JSON elsewhere, secrets redacted."""

import logging
import sys
from collections.abc import Iterable
from typing import TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

SHORTEST_SECRET = 6
"""A shorter text is too common to be redacted wherever it occurs."""


class Secrets:
    """Texts that must not be logged."""

    def __init__(self) -> None:
        self._texts: tuple[str, ...] = ()

    def add(self, texts: Iterable[str]) -> None:
        """Redact these from now on; of a text with several lines also each line."""
        lines = {line for text in texts for line in (text, *text.splitlines()) if len(line) >= SHORTEST_SECRET}
        self._texts = tuple(sorted({*self._texts, *lines}, key=len, reverse=True))

    def redact(self, text: str) -> str:
        """Return a text with every secret replaced."""
        for secret in self._texts:
            if secret in text:
                text = text.replace(secret, "****")
        return text

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Redact a log entry, as a processor of structlog."""
        return {name: self.redact(value) if isinstance(value, str) else value for name, value in event.items()}


secrets = Secrets()
"""Those of this process; each registration adds its own."""


def configure_logging(stream: TextIO | None = None) -> None:
    """Configure structlog to write to stderr."""
    stream = stream or sys.stderr
    is_terminal = stream.isatty()
    renderer = structlog.dev.ConsoleRenderer(colors=True) if is_terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if is_terminal else "iso", utc=not is_terminal),
            structlog.processors.format_exc_info,
            secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
