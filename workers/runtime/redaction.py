"""Secrets that a worker must not log, store or send: every text is redacted before it leaves the process."""

from collections.abc import Iterable

from structlog.typing import EventDict, WrappedLogger

__all__ = ["MIN_SECRET_LENGTH", "Secrets", "secrets"]

MIN_SECRET_LENGTH = 6
"""Shorter texts are too common to be redacted everywhere."""


class Secrets:
    """Texts that must not be logged."""

    def __init__(self) -> None:
        self._texts: tuple[str, ...] = ()

    def add(self, texts: Iterable[str]) -> None:
        """Redact these texts from now on; of a text with several lines also each line."""
        lines = {line for text in texts for line in (text, *text.splitlines()) if len(line) >= MIN_SECRET_LENGTH}
        self._texts = tuple(sorted({*self._texts, *lines}, key=len, reverse=True))

    def redact(self, text: str) -> str:
        """Return a text with every secret replaced."""
        for secret in self._texts:
            if secret in text:
                text = text.replace(secret, "****")
        return text

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Redact a log entry, as a structlog processor."""
        return {name: self.redact(value) if isinstance(value, str) else value for name, value in event.items()}


secrets = Secrets()
"""The secrets of this process; each registration adds its own."""
