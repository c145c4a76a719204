"""What the admin says when something is wrong looks like the admin."""

import pytest
from django.db import InterfaceError, OperationalError, connection
from django.test import Client

from runqy.errors import BrokerUnavailable, ConfigurationUnavailable
from runqy.staff.site import StaffSite

pytestmark = pytest.mark.usefixtures("configuration")


@pytest.fixture
def staff(admin_client: Client) -> Client:
    """Return a browser that shows the pages of errors as people see them."""
    admin_client.raise_request_exception = False
    return admin_client


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
@pytest.mark.parametrize("path", ["/admin/", "/admin/queues/queue/", "/admin/vaults/vault/add/"])
def test_without_a_database_a_page_says_so(
    staff: Client, monkeypatch: pytest.MonkeyPatch, error: type[Exception], path: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(connection, "cursor", fail)
        answer = staff.get(path)

    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert "The database cannot be reached" in answer.content.decode()
    assert "staff/logo-light.svg" in answer.content.decode()


@pytest.mark.parametrize("error", [BrokerUnavailable(), ConfigurationUnavailable()])
def test_a_page_that_needs_what_is_away_says_so(
    staff: Client, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(StaffSite, "each_context", fail)

    answer = staff.get("/admin/")

    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert str(error) in answer.content.decode()


def test_a_bug_is_a_page_with_the_number_of_the_request(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StaffSite, "each_context", lambda *_: 1 / 0)

    answer = staff.get("/admin/", headers={"X-Request-ID": "tell-them-this"})

    assert answer.status_code == 500
    assert "tell-them-this" in answer.content.decode()
    assert "division" not in answer.content.decode()


def test_a_page_that_is_not_there_leads_back(staff: Client) -> None:
    answer = staff.get("/admin/nothing/")

    assert answer.status_code == 404
    assert 'href="/admin/"' in answer.content.decode()


def test_a_form_without_its_token_says_what_to_do() -> None:
    answer = Client(enforce_csrf_checks=True).post("/admin/login/", {"username": "a", "password": "b"})

    assert answer.status_code == 403
    assert "RUNQY_CSRF_ORIGINS" in answer.content.decode()
