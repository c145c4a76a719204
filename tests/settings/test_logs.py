"""Logging may be set up more than once in a process."""

from logging.config import dictConfig

import structlog
from django.conf import settings
from structlog.testing import capture_logs

from runqy.core.telemetry import logs


def test_loggers_in_use_follow_when_logging_is_set_up_again() -> None:
    log = structlog.get_logger("test")
    log.info("in_use")

    dictConfig(settings.LOGGING)
    logs.configure_structlog()
    with capture_logs() as lines:
        log.info("seen")

    own = [line["event"] for line in lines if line["event"] in ("in_use", "seen")]  # other threads may log too
    assert own == ["seen"]
