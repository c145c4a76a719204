"""Sends logs to stderr: readable on a terminal, one JSON object a line elsewhere."""

import logging
import logging.config
import sys
from typing import Any

import structlog

from runqy.request_ids import add_request_id

LEVELS = ("debug", "info", "warning", "error")

_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    add_request_id,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
_OURS: list[Any] = [*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter]
"""The same list however often logging is set up, as Django does anew for WSGI: loggers keep the one they began with."""


def configure(options: dict[str, Any]) -> None:
    """Set up logging for this process; `options` is `settings.LOGGING`, of which `level` is read."""
    level = str(options.get("level", "info")).upper()
    structlog.configure(
        processors=_OURS,
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"runqy": {"()": _formatter, "is_terminal": sys.stderr.isatty()}},
            "filters": {"unavailable": {"()": "runqy.logs.UnavailableFilter"}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "runqy"}},
            "root": {"handlers": ["stderr"], "level": level},
            "loggers": {
                "django.request": {"level": "ERROR", "filters": ["unavailable"]},
                "django.security.DisallowedHost": {"level": "CRITICAL"},  # likewise
                "django.server": {"level": "WARNING"},
                "axes": {"level": "WARNING"},
            },
        }
    )


class UnavailableFilter(logging.Filter):
    """Drop Django's line for a 503: the exception handler has logged the reason."""

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "status_code", 0) != 503


def _formatter(*, is_terminal: bool) -> logging.Formatter:
    """Return the formatter for our own lines and for those of libraries."""
    last: list[Any] = (
        [structlog.dev.ConsoleRenderer()]
        if is_terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
