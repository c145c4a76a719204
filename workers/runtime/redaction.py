"""Secrets that a worker must not log, store or send. Every text is redacted before it leaves the process."""

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote

from structlog.typing import EventDict, WrappedLogger

MIN_SECRET_LENGTH = 6
"""Shorter texts occur too often by chance to be redacted."""

_USERINFO = re.compile(r"://([^\s/?#]+)@")


def environment_secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the credentials of package indexes and proxies. The programs of a deployment inherit these variables."""
    for name, value in environ.items():
        found = [value] if name.startswith("UV_") and name.endswith(("_PASSWORD", "_TOKEN")) else []
        for userinfo in _USERINFO.findall(value):
            user, _, password = userinfo.partition(":")
            found += [userinfo, password or user]
        # A password with special characters is percent-encoded in a URL. Programs may print either form.
        yield from (text for part in found for text in {part, unquote(part)} if len(text) >= MIN_SECRET_LENGTH)


class Secrets:
    """Texts that must not be logged."""

    def __init__(self) -> None:
        self._texts: tuple[str, ...] = ()

    def add(self, texts: Iterable[str]) -> None:
        """Redact these texts from now on. Of a text with several lines, redact each line too."""
        lines = {line for text in texts for line in (text, *text.splitlines()) if len(line) >= MIN_SECRET_LENGTH}
        # The longest first: a secret may contain a shorter one.
        self._texts = tuple(sorted({*self._texts, *lines}, key=len, reverse=True))

    def redact(self, text: str) -> str:
        for secret in self._texts:
            if secret in text:
                text = text.replace(secret, "****")
        return text

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Redact a log entry, as a structlog processor."""
        return {name: self.redact(value) if isinstance(value, str) else value for name, value in event.items()}


secrets = Secrets()
"""The secrets of this process; each registration adds its own."""
