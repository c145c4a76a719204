"""Looks for settings that are well spelled and unwise: some always, some before production (`check --deploy`)."""

from typing import Any

import structlog
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from runqy.accounts.identity import SHORTEST_KEY

log = structlog.get_logger()


@register(Tags.security)
def check_keys_differ(**_: Any) -> list[CheckMessage]:
    """A key in two roles would silently have the greater one."""
    keys = [key for key in _environment_keys().values() if key]
    if len(set(keys)) == len(keys):
        return []
    hint = "Give RUNQY_API_KEY, RUNQY_WORKER_API_KEY and RUNQY_CLIENT_API_KEY different values."
    return [Error("One API key is set for two roles.", hint=hint, id="runqy.E001")]


@register(Tags.security, deploy=True)
def check_secret_key(**_: Any) -> list[CheckMessage]:
    """A key that one machine made up is unknown to the others, and they refuse what it signed."""
    if not settings.SECRET_KEY_IS_GENERATED:
        return []
    hint = "Set it, or RUNQY_SECRET_KEY_FILE, to the same long random text on all machines."
    return [Error("RUNQY_SECRET_KEY is not set.", hint=hint, id="runqy.E002")]


@register(Tags.security, deploy=True)
def check_keys_are_long(**_: Any) -> list[CheckMessage]:
    """Short keys can be guessed, and are not accepted from addresses with too many wrong keys."""
    hint = "Make one with `openssl rand -hex 32`."
    return [
        Error(f"{name} has fewer than {SHORTEST_KEY} characters.", hint=hint, id="runqy.E003") for name in short_keys()
    ]


def short_keys() -> list[str]:
    """Return the variables whose API keys are short enough to be guessed."""
    return [name for name, key in _environment_keys().items() if key and len(key) < SHORTEST_KEY]


def warn_of_short_keys() -> None:
    """Log the API keys of the environment that are too short; each start of a web process calls it."""
    for name in short_keys():
        log.warning("api_key_too_short", variable=name, shortest=SHORTEST_KEY)


@register(deploy=True)
def check_redis_is_chosen(**_: Any) -> list[CheckMessage]:
    """The default is for a Redis on this machine."""
    if settings.REDIS_IS_CONFIGURED:
        return []
    return [Warning("No Redis is configured.", hint="Set REDIS_URL, or REDIS_HOST.", id="runqy.W004")]


def _environment_keys() -> dict[str, str]:
    """Return the API keys that the environment sets."""
    return {name: getattr(settings, name) for name in ("RUNQY_API_KEY", "RUNQY_WORKER_API_KEY", "RUNQY_CLIENT_API_KEY")}
