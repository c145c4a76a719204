"""Paths of released clients: they work, and name the path that replaces them."""

from typing import Any

import pytest
from django.test import RequestFactory
from rest_framework.response import Response

from runqy.api.viewsets import DEPRECATED_SINCE_S, ApiViewSet
from tests.support.environment import ADMIN_KEY

pytestmark = pytest.mark.usefixtures("configuration")


class ListingViewSet(ApiViewSet):
    """A viewset whose responses link to the next page."""

    def list(self, request: Any, queue: str) -> Response:
        return Response(queue, headers={"Link": '</next>; rel="next"'})


documented = ListingViewSet.as_view({"get": "list"})
alias = ListingViewSet.as_view({"get": "list"}, deprecated_for="/new/{queue}/tasks")


def get(view: Any, queue: str, key: str = ADMIN_KEY) -> Any:
    """Return a view's response."""
    return view(RequestFactory().get("/x", headers={"Authorization": f"Bearer {key}"}), queue=queue)


def test_an_alias_links_to_its_replacement_and_keeps_other_links() -> None:
    response = get(alias, "a b")

    assert response.data == "a b"
    assert response["Deprecation"] == f"@{DEPRECATED_SINCE_S}"
    assert response["Link"] == '</next>; rel="next", </new/a%20b/tasks>; rel="successor-version"'


def test_an_alias_is_deprecated_in_error_responses() -> None:
    response = get(alias, "mail", key="wrong")

    assert response.status_code == 401
    assert response["Link"] == '</new/mail/tasks>; rel="successor-version"'


def test_the_documented_path_is_not_deprecated() -> None:
    response = get(documented, "mail")

    assert response.data == "mail"
    assert not response.has_header("Deprecation")
