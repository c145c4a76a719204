"""Security headers of responses."""

import pytest
from django.test import Client

from runqy.server.security_headers import ADMIN_POLICY, DATA_POLICY, PAGE_POLICY

pytestmark = pytest.mark.django_db

ON_ALL = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
PAGES = {"/admin/login/": ADMIN_POLICY, "/admin/nothing-here": ADMIN_POLICY, "/swagger/index.html": PAGE_POLICY}


@pytest.mark.parametrize("path", PAGES)
def test_every_page_has_a_content_security_policy(client: Client, path: str) -> None:
    response = client.get(path)

    assert {name: response[name] for name in ON_ALL} == ON_ALL
    assert response["Content-Security-Policy"] == PAGES[path]


@pytest.mark.parametrize("path", ["/health", "/nothing", "/swagger/doc.json", "/queue/t1"])
def test_the_policy_of_other_responses_allows_nothing(client: Client, path: str) -> None:
    response = client.get(path)

    assert {name: response[name] for name in ON_ALL} == ON_ALL
    assert response["Content-Security-Policy"] == DATA_POLICY


def test_scripts_made_of_text_are_for_the_admins_theme_alone() -> None:
    assert "script-src 'self' 'unsafe-eval'" in ADMIN_POLICY
    assert "unsafe" not in PAGE_POLICY + DATA_POLICY
    assert "unsafe-inline" not in ADMIN_POLICY
