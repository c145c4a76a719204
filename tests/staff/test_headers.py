"""What answers tell browsers about themselves."""

import pytest
from django.test import Client

from runqy.middleware import POLICIES

pytestmark = pytest.mark.django_db

EVERYWHERE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@pytest.mark.parametrize("path", ["/admin/login/", "/admin/nothing-here", "/swagger/index.html", "/health", "/nothing"])
def test_every_answer_says_what_a_browser_may_do_with_it(client: Client, path: str) -> None:
    answer = client.get(path)

    assert {name: answer[name] for name in EVERYWHERE} == EVERYWHERE
    assert answer["Content-Security-Policy"] == POLICIES[path.startswith("/admin/")]


def test_scripts_made_of_text_are_for_the_admins_theme_alone() -> None:
    assert "script-src 'self' 'unsafe-eval'" in POLICIES[True]
    assert "unsafe" not in POLICIES[False]
    assert not any("unsafe-inline" in policy for policy in POLICIES.values())
