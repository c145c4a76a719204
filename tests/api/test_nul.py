"""NUL in an address is refused before any database sees it: PostgreSQL fails at it."""

import pytest
from django.test import Client

from tests.api.client import ApiClient, problem

pytestmark = pytest.mark.usefixtures("configuration")


@pytest.mark.parametrize(
    "path",
    [
        "/api/vaults/v/deliveries?worker_id=%00",
        "/api/keys?cursor=a%00b",
        "/api/cli/queues/q/tasks?state=%00",
        "/queue/t1?wait=%00",
    ],
)
def test_nul_in_a_query_is_invalid(each_plane: str, path: str) -> None:
    response = ApiClient().get(path)

    assert (response.status_code, problem(response)["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/vaults/%00", "vault_not_found"),
        ("/api/vaults/%00/deliveries", "vault_not_found"),
        ("/api/vaults/%00/entries/A/versions", "vault_not_found"),
        ("/api/keys/%00", "api_key_not_found"),
        ("/api/cli/queues/%00/tasks", "queue_not_found"),
        ("/api/cli/queues/%00", "queue_not_found"),
        ("/api/cli/configs/%00", "queue_not_found"),
        ("/api/cli/workers/%00", "worker_not_found"),
        ("/queue/%00", "task_not_found"),
    ],
)
def test_nul_in_a_path_is_not_found(each_plane: str, path: str, code: str) -> None:
    response = ApiClient().get(path)

    assert (response.status_code, problem(response)["code"]) == (404, code)


def test_nul_in_a_cookie_is_refused_before_the_session_is_read(client: Client) -> None:
    # As a header: Python 3.14 writes no such cookie.
    response = client.get("/admin/", headers={"Cookie": 'runqy_session="' + "\\000" * 16 + '"'})

    assert response.status_code == 400
    assert "Bad request" in response.content.decode()


@pytest.mark.parametrize("path", ["/admin/audit/auditrecord/?action=%00", "/admin/accounts/apikey/?status=%00&q=%00"])
def test_nul_in_a_filter_of_the_admin_is_an_error_page(admin_client: object, path: str) -> None:
    response = admin_client.get(path)  # type: ignore[attr-defined]

    assert response.status_code == 400
    assert "Bad request" in response.content.decode()
