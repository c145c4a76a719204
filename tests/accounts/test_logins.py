"""Staff log in: guesses are bounded, and the audit has it."""

import json
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from runqy import clock
from runqy.audit.models import AuditRecord
from runqy.core.formats.durations import Rate
from tests.configuration.support import away
from tests.support.staff import create_roles

pytestmark = pytest.mark.usefixtures("configuration")

PASSWORD = "a-Password-1-for-ada"
LOGIN = "/admin/login/"
EVERYWHERE = "/admin/logout/everywhere/"


@pytest.fixture
def ada() -> User:
    """Return a user who may log in."""
    return User.objects.create_superuser("ada", password=PASSWORD)


def attempt(password: str, username: str = "ada", **environ: str) -> Any:
    """Try a password in a fresh browser."""
    return Client().post(LOGIN, {"username": username, "password": password, "next": "/admin/"}, **environ)


def log_in(username: str = "ada") -> Client:
    """Return a fresh browser with a session."""
    browser = Client()
    assert browser.post(LOGIN, {"username": username, "password": PASSWORD}).status_code == 302
    return browser


def is_logged_in(browser: Client) -> bool:
    return browser.get("/admin/password_change/").status_code == 200


def audited() -> list[tuple[str, str, str, str]]:
    """Return the audit records about users: action, user, actor and address."""
    rows = AuditRecord.objects.filter(object_kind="user").order_by("number")
    return [(row.action, row.object_name, row.actor_name, row.address) for row in rows]


def test_logins_failures_and_logouts_are_recorded(ada: User) -> None:
    browser = Client()
    attempt("wrong", REMOTE_ADDR="192.0.2.7")
    response = browser.post(LOGIN, {"username": "ada", "password": PASSWORD, "next": "/admin/"})
    assert response.status_code == 302, response.content

    browser.post("/admin/logout/")

    assert audited() == [
        ("user.login_failed", "ada", "ada", "192.0.2.7"),
        ("user.logged_in", "ada", "ada", "127.0.0.1"),
        ("user.logged_out", "ada", "ada", "127.0.0.1"),
    ]


def test_unknown_user_names_are_not_recorded(ada: User, caplog: pytest.LogCaptureFixture) -> None:
    attempt("x", username=PASSWORD)

    assert audited() == []
    assert PASSWORD not in json.dumps(list(AuditRecord.objects.values_list("changes", "object_name")))


def test_too_long_user_names_are_refused(ada: User) -> None:
    response = attempt("wrong", username="a" * 100_000)

    assert response.status_code == 200
    assert "Please enter the correct username" in response.content.decode()
    assert not AccessAttempt.objects.exists()


def test_too_many_failures_lock_the_name_at_that_address_and_nowhere_else(ada: User, settings: Any) -> None:
    for _ in range(settings.AXES_FAILURE_LIMIT - 1):
        assert attempt("wrong", REMOTE_ADDR="192.0.2.7").status_code == 200

    locked = attempt("wrong", REMOTE_ADDR="192.0.2.7")
    assert (locked.status_code, locked["Retry-After"]) == (429, "900")
    assert "Too many failed logins" in locked.content.decode()
    assert attempt(PASSWORD, REMOTE_ADDR="192.0.2.7").status_code == 429
    assert attempt(PASSWORD, REMOTE_ADDR="192.0.2.8").status_code == 302


def test_attempts_while_locked_leave_no_records(ada: User, settings: Any) -> None:
    for _ in range(settings.AXES_FAILURE_LIMIT + 5):
        attempt("wrong")

    assert [action for action, *_ in audited()] == ["user.login_failed"] * settings.AXES_FAILURE_LIMIT


def test_a_successful_login_resets_the_failures(ada: User, settings: Any) -> None:
    for _ in range(settings.AXES_FAILURE_LIMIT - 1):
        attempt("wrong")
    assert attempt(PASSWORD).status_code == 302

    assert attempt("wrong").status_code == 200


def test_behind_a_trusted_proxy_the_clients_address_is_what_is_locked(ada: User, settings: Any) -> None:
    settings.RUNQY_TRUSTED_PROXIES = (ip_network("10.0.0.0/8"),)
    attacker = {"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": "192.0.2.66, 192.0.2.7"}
    for _ in range(settings.AXES_FAILURE_LIMIT):
        attempt("wrong", **attacker)

    assert attempt(PASSWORD, **attacker).status_code == 429
    assert attempt(PASSWORD, **attacker | {"HTTP_X_FORWARDED_FOR": "192.0.2.66"}).status_code == 302
    assert audited()[0][3] == "192.0.2.7"


def test_an_ipv6_network_counts_as_one_address(ada: User, settings: Any) -> None:
    for number in range(settings.AXES_FAILURE_LIMIT):
        attempt("wrong", REMOTE_ADDR=f"2001:db8::{number + 1:x}")

    assert attempt(PASSWORD, REMOTE_ADDR="2001:db8::ffff").status_code == 429
    assert attempt(PASSWORD, REMOTE_ADDR="2001:db8:0:1::1").status_code == 302


def test_passwords_tried_under_many_names_are_bounded_by_address(ada: User, settings: Any) -> None:
    settings.RUNQY_AUTH_FAILURE_LIMIT = Rate(5, 3600)
    for number in range(5):
        assert attempt("wrong", username=f"user{number}").status_code == 200

    refused = attempt(PASSWORD)
    assert refused.status_code == 429
    assert 0 < int(refused["Retry-After"]) <= 3600
    assert attempt(PASSWORD, REMOTE_ADDR="192.0.2.8").status_code == 302


@pytest.mark.parametrize("target", [{}, {"next": ""}, {"next": "https://elsewhere.example/"}])
def test_a_login_without_a_usable_next_leads_to_the_overview(ada: User, target: dict[str, str]) -> None:
    response = Client().post(LOGIN, {"username": "ada", "password": PASSWORD, **target})

    assert (response.status_code, response["Location"]) == (302, "/admin/")


def test_staff_can_log_in_without_redis(ada: User, settings: Any) -> None:
    settings.REDIS_TARGET = away()

    assert attempt(PASSWORD).status_code == 302


def test_staff_log_in_again_after_the_longest_session_however_active_they_are(
    ada: User, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, started = log_in(), timezone.now()
    statuses = []

    for hours in (0, 6, 11, 13):
        at = started + timedelta(hours=hours)
        monkeypatch.setattr(timezone, "now", lambda at=at: at)
        monkeypatch.setattr(clock, "now_ns", lambda at=at: int(at.timestamp() * 1e9))
        statuses.append(browser.get("/admin/").status_code)
        if hours == 11:
            form = {"old_password": PASSWORD, "new_password1": f"{PASSWORD}-2", "new_password2": f"{PASSWORD}-2"}
            statuses.append(browser.post("/admin/password_change/", form).status_code)
            statuses.append(browser.get("/admin/").status_code)

    assert statuses == [200, 200, 200, 302, 200, 302]


def test_logging_out_everywhere_ends_all_sessions_of_the_user_and_no_others(ada: User) -> None:
    User.objects.create_superuser("bob", password=PASSWORD)
    here, elsewhere, bobs = log_in(), log_in(), log_in("bob")
    question = here.get(EVERYWHERE).content.decode()
    asked = is_logged_in(here)

    page = here.post(EVERYWHERE)

    assert ("Log out everywhere?" in question, asked) == (True, True)
    assert "You are logged out." in page.content.decode()
    assert [is_logged_in(browser) for browser in (here, elsewhere, bobs)] == [False, False, True]
    assert ("user.logged_out_everywhere", "ada", "ada", "127.0.0.1") in audited()
    assert attempt(PASSWORD).status_code == 302


def test_an_admin_ends_all_sessions_of_another_user(ada: User) -> None:
    bob = User.objects.create_user("bob", password=PASSWORD, is_staff=True)
    admin, bobs = log_in(), log_in("bob")
    url = f"/admin/auth/user/{bob.pk}/log-out-everywhere/"
    assert url in admin.get(f"/admin/auth/user/{bob.pk}/change/").content.decode()

    refused = bobs.post(f"/admin/auth/user/{ada.pk}/log-out-everywhere/").status_code
    response = admin.post(url, follow=True)

    assert "bob is logged out everywhere" in response.content.decode()
    assert (refused, is_logged_in(bobs), is_logged_in(admin)) == (403, False, True)
    assert ("user.logged_out_everywhere", "bob", "ada", "127.0.0.1") in audited()


def test_sessions_of_a_deactivated_user_end_and_stay_ended(ada: User) -> None:
    create_roles()
    bob = User.objects.create_user("bob", password=PASSWORD, is_staff=True)
    admin, bobs = log_in(), log_in("bob")
    form = {"username": "bob", "role": "viewer"}
    ended = []

    for is_active in ({}, {"is_active": "on"}):
        admin.post(f"/admin/auth/user/{bob.pk}/change/", form | is_active)
        ended.append(not is_logged_in(bobs))

    assert User.objects.get(pk=bob.pk).is_active
    assert ended == [True, True]


def test_a_login_deletes_expired_sessions(ada: User) -> None:
    Session.objects.create(session_key="old", session_data="", expire_date=timezone.now() - timedelta(days=1))

    attempt(PASSWORD)

    assert not Session.objects.filter(session_key="old").exists()


def test_cookies_are_httponly_and_samesite(ada: User, settings: Any) -> None:
    settings.SESSION_COOKIE_SECURE = True

    cookie = attempt(PASSWORD).cookies["runqy_session"]

    assert (cookie["httponly"], cookie["samesite"], cookie["secure"]) == (True, "Lax", True)
