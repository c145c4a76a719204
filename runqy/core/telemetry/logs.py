"""Logging to stderr: formatted on a terminal, else one JSON object for each line."""

import logging
import sys
from typing import Any

import structlog
from structlog.typing import Processor

from runqy.core.telemetry.tracing import add_request_id

LEVELS = ("debug", "info", "warning", "error")

_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    add_request_id,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
_OURS: list[Any] = [*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter]
"""Must remain the same list: cached loggers refer to it."""


def configure_structlog() -> None:
    """Pass structlog's entries to the standard library's logging."""
    structlog.configure(
        processors=_OURS,
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def dict_config(level: str, redact: Processor | None = None) -> dict[str, Any]:
    """Return the configuration of the standard library's logging, in servers and workers.

    `redact` is the last processor: it sees the text of tracebacks, and libraries' lines.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"runqy": {"()": make_formatter, "redact": redact}},
        "filters": {"unavailable": {"()": "runqy.core.telemetry.logs.UnavailableFilter"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "runqy"}},
        "root": {"handlers": ["stderr"], "level": level.upper()},
        "loggers": {
            "django.request": {"level": "ERROR", "filters": ["unavailable"]},
            "django.security.DisallowedHost": {"level": "CRITICAL"},  # a client's error
            "django.security.DisallowedModelAdminLookup": {"level": "CRITICAL"},
            "django.server": {"level": "WARNING"},
            "axes": {"level": "WARNING"},
            "httpx2": {"level": "WARNING"},  # at info it logs URLs, and that of a webhook may be a secret
        },
    }


class UnavailableFilter(logging.Filter):
    """Drops Django's log line for a 503, because the exception handler has logged the reason."""

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "status_code", 0) != 503


def make_formatter(redact: Processor | None = None) -> logging.Formatter:
    """Return the formatter of our log lines and of libraries' lines."""
    is_terminal = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if is_terminal else structlog.processors.JSONRenderer()
    texts = [structlog.processors.format_exc_info] if redact or not is_terminal else []
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *texts,
            *([redact] if redact else []),
            renderer,
        ],
    )
