"""Logins and sessions of users: rate limit by address, lockout, the end of sessions, audit records.

The limits are RUNQY_AUTH_FAILURE_LIMIT and AXES_FAILURE_LIMIT (`runqy/server/framework.py`).
"""

import re
from datetime import timedelta
from typing import Any

import structlog
from django.conf import settings
from django.contrib import admin
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.models import AbstractBaseUser, User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import DatabaseError, close_old_connections, transaction
from django.http import HttpRequest, HttpResponse

from runqy.accounts.users import remember_browser_zone
from runqy.admin_site.error_pages import too_many_logins
from runqy.api.throttling import ip_prefix, login_limiter
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.audit.operations import record
from runqy.core.telemetry.tracing import current_request_id
from runqy.errors import TooManyFailures
from runqy.redis_connection import get_broker

log = structlog.get_logger(__name__)

_SESSION_KEY = re.compile(r"[0-9a-z]{8,40}")


def log_in(request: HttpRequest) -> HttpResponse:
    """Show the login page, or log in unless there were too many attempts from the address."""
    if request.method == "POST":
        try:
            get_broker().run(login_limiter(request.META.get("REMOTE_ADDR", "")).count(get_broker()))
        except TooManyFailures as error:
            return too_many_logins(request, error.retry_after_s)
    return admin.site.login(request)


def lockout_response(
    request: HttpRequest, response: HttpResponse | None = None, credentials: dict[str, Any] | None = None
) -> HttpResponse:
    """Return the response for a user name that is locked out. django-axes calls this."""
    return too_many_logins(request, int(timedelta(hours=settings.AXES_COOLOFF_TIME).total_seconds()))


def get_client_address(request: HttpRequest) -> str | None:
    """Return the address by which django-axes counts failures; of IPv6 the network."""
    address = ip_prefix(request.META.get("REMOTE_ADDR", ""))
    return None if address == "none" else address


def is_logged_in(session_key: str) -> bool:
    """Return whether a session belongs to a user; False while the database is unavailable. Opens a connection of its
    own.
    """
    close_old_connections()
    try:
        return SESSION_KEY in SessionStore(session_key).load() if _SESSION_KEY.fullmatch(session_key) else False
    except DatabaseError:
        return False
    finally:
        close_old_connections()


def log_out_everywhere(user: User) -> None:
    with transaction.atomic():
        delete_sessions(user)
        record(action="user.logged_out_everywhere", object_kind="user", object_name=user.get_username())


def delete_sessions(user: User) -> None:
    """Delete all sessions of a user. A request that is being served cannot store its session again."""
    # All are read, because only their content names the user: at most the logins of RUNQY_SESSION_MAX_AGE.
    sessions = Session.objects.iterator()
    keys = [row.pk for row in sessions if row.get_decoded().get(SESSION_KEY) == str(user.pk)]
    Session.objects.filter(pk__in=keys).delete()


def record_logins() -> None:
    user_logged_in.connect(_record_login, dispatch_uid="runqy.login")
    user_login_failed.connect(_record_failure, dispatch_uid="runqy.login_failed")
    user_logged_out.connect(_record_logout, dispatch_uid="runqy.logout")


def _record_login(sender: object, request: HttpRequest, user: User, **_: Any) -> None:
    # A fixed end: otherwise each change of the session would extend it.
    request.session.set_expiry(timedelta(seconds=settings.SESSION_COOKIE_AGE))
    remember_browser_zone(user, request.POST.get("time_zone", ""))
    _record(request, "user.logged_in", user)
    SessionStore.clear_expired()


def _record_failure(sender: object, credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    user = User.objects.filter(username=credentials.get("username") or "").first()
    log.warning("login_failed", is_known=user is not None, address=_address(request))
    # Unknown names are not recorded, because they may be passwords.
    if user is not None and not getattr(request, "axes_locked_out", False):
        _record(request, "user.login_failed", user)


def _record_logout(
    sender: object, request: HttpRequest | None = None, user: AbstractBaseUser | None = None, **_: Any
) -> None:
    if isinstance(user, User):
        _record(request, "user.logged_out", user)


def _record(request: HttpRequest | None, action: str, user: User) -> None:
    actor = Actor(
        kind=ActorKind.USER,
        name=user.get_username(),
        id=str(user.pk),
        address=_address(request),
        request_id=current_request_id() if request is not None else "",
    )
    with actor_context(actor):
        record(action=action, object_kind="user", object_name=user.get_username())


def _address(request: HttpRequest | None) -> str:
    return str(request.META.get("REMOTE_ADDR", "")) if request is not None else ""
