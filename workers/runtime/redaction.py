"""Secrets that a worker must not log, store or send: every text is redacted before it leaves the process."""

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote

from structlog.typing import EventDict, WrappedLogger

MIN_SECRET_LENGTH = 6
"""Shorter texts are too common to be redacted everywhere."""

_USERINFO = re.compile(r"://([^\s/?#]+)@")


def environment_secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the credentials of package indexes and proxies, which the programs of a deployment inherit."""
    for name, value in environ.items():
        found = [value] if name.startswith("UV_") and name.endswith(("_PASSWORD", "_TOKEN")) else []
        for userinfo in _USERINFO.findall(value):
            user, _, password = userinfo.partition(":")
            found += [userinfo, password or user]
        yield from (text for part in found for text in {part, unquote(part)} if len(text) >= MIN_SECRET_LENGTH)


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
