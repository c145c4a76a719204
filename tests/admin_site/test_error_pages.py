"""Error pages of the admin have its theme."""

from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.db import DatabaseError, InterfaceError, OperationalError, connection
from django.test import Client

from runqy.admin_site.site import RunqyAdminSite
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable

pytestmark = pytest.mark.usefixtures("configuration")


@pytest.fixture
def staff(admin_client: Client) -> Client:
    """Return a browser that shows the pages of errors as people see them."""
    admin_client.raise_request_exception = False
    return admin_client


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
@pytest.mark.parametrize("path", ["/admin/", "/admin/queues/queue/", "/admin/vaults/vault/add/"])
def test_pages_report_an_unavailable_database(
    staff: Client, monkeypatch: pytest.MonkeyPatch, error: type[Exception], path: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(connection, "cursor", fail)
        response = staff.get(path)

    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert "The database cannot be reached" in response.content.decode()
    assert "admin_site/logo-light.svg" in response.content.decode()


def test_a_page_whose_session_cannot_be_saved_reports_the_database(
    staff: Client, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OperationalError("database is locked")

    settings.SESSION_SAVE_EVERY_REQUEST = True
    monkeypatch.setattr(Session, "save", fail)

    response = staff.get("/admin/")

    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert "The database cannot be reached" in response.content.decode()


def test_a_page_of_a_session_that_ended_meanwhile_is_refused(
    staff: Client, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseError("Forced update did not affect any rows.")

    settings.SESSION_SAVE_EVERY_REQUEST = True
    monkeypatch.setattr(Session, "save", fail)

    assert staff.get("/admin/").status_code == 400


@pytest.mark.parametrize("error", [BrokerUnavailable(), ConfigurationUnavailable()])
def test_pages_report_unavailable_services(staff: Client, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(RunqyAdminSite, "each_context", fail)

    response = staff.get("/admin/")

    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert str(error) in response.content.decode()


def test_a_server_error_page_shows_the_request_id(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunqyAdminSite, "each_context", lambda *_: 1 / 0)

    response = staff.get("/admin/", headers={"X-Request-ID": "id-of-this-request"})

    assert response.status_code == 500
    assert "id-of-this-request" in response.content.decode()
    assert "division" not in response.content.decode()


def test_the_page_of_an_unknown_url_links_back(staff: Client) -> None:
    response = staff.get("/admin/nothing/")

    assert response.status_code == 404
    assert 'href="/admin/"' in response.content.decode()


def test_a_form_without_csrf_token_explains_what_to_do() -> None:
    response = Client(enforce_csrf_checks=True).post("/admin/login/", {"username": "a", "password": "b"})

    assert response.status_code == 403
    assert "RUNQY_CSRF_ORIGINS" in response.content.decode()
