"""System checks of settings that are valid but unsafe; some only with `check --deploy`."""

from typing import Any

import structlog
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from runqy.core.api_keys import ENVIRONMENT_KEYS, MIN_KEY_LENGTH

log = structlog.get_logger()

MIN_SECRET_KEY_LENGTH = 50
"""That of Django's check security.W009."""


@register(Tags.security)
def check_keys_differ(**_: Any) -> list[CheckMessage]:
    """A key that is set for two roles would have the higher one."""
    keys = [key for key in _environment_keys().values() if key]
    if len(set(keys)) == len(keys):
        return []
    hint = "Set RUNQY_API_KEY, RUNQY_WORKER_API_KEY, RUNQY_CLIENT_API_KEY and RUNQY_METRICS_TOKEN to different values."
    return [Error("One API key is set for two roles.", hint=hint, id="runqy.E001")]


@register(Tags.security, deploy=True)
def check_secret_key(**_: Any) -> list[CheckMessage]:
    """A key generated on one machine is unknown to others, which refuse its signatures."""
    if not settings.SECRET_KEY_IS_GENERATED:
        return []
    hint = "Set it, or RUNQY_SECRET_KEY_FILE, to the same long random text on all machines."
    return [Error("RUNQY_SECRET_KEY is not set.", hint=hint, id="runqy.E002")]


@register(Tags.security, deploy=True)
def check_keys_are_long(**_: Any) -> list[CheckMessage]:
    """Short keys can be guessed; they are refused from addresses that sent too many wrong keys."""
    hint = "Generate one with `openssl rand -hex 32`."
    return [
        Error(f"{name} has fewer than {MIN_KEY_LENGTH} characters.", hint=hint, id="runqy.E003")
        for name in short_keys()
    ]


def short_keys() -> list[str]:
    """Return the environment variables with API keys that are short enough to be guessed."""
    return [name for name, key in _environment_keys().items() if key and len(key) < MIN_KEY_LENGTH]


def warn_of_short_keys() -> None:
    """Log the variables with short API keys, and a short secret key. Called when a web process starts."""
    for name in short_keys():
        log.warning("api_key_too_short", variable=name, shortest=MIN_KEY_LENGTH)
    if not settings.SECRET_KEY_IS_GENERATED and len(settings.SECRET_KEY) < MIN_SECRET_KEY_LENGTH:
        log.warning(
            "secret_key_too_short",
            variable="RUNQY_SECRET_KEY",
            shortest=MIN_SECRET_KEY_LENGTH,
            hint="generate one with `openssl rand -hex 32`",
        )


@register(deploy=True)
def check_redis_is_chosen(**_: Any) -> list[CheckMessage]:
    """The default is a Redis on this machine."""
    if settings.REDIS_IS_CONFIGURED:
        return []
    return [Warning("No Redis is configured.", hint="Set REDIS_URL, or REDIS_HOST.", id="runqy.W004")]


def _environment_keys() -> dict[str, str]:
    return {name: getattr(settings, name) for name in reversed(ENVIRONMENT_KEYS)}
