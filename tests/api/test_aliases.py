"""Paths that only released clients know: they work, and say where to go."""

from django.http import HttpResponse
from django.test import RequestFactory
from runqy.api.aliases import DEPRECATED_SINCE_S, routes

from runqy.api.views import KeyedView
from tests.support.environment import ADMIN_KEY


class Listing(KeyedView):
    """A view that links to its next page."""

    def get(self, request, queue):
        """Answer."""
        return HttpResponse(queue, headers={"Link": '</next>; rel="next"'})


_PATH, _ALIAS = routes("new/<str:queue>/tasks", Listing, name="listing", alias="old/<str:queue>/tasks")


def _get(pattern, queue, key=ADMIN_KEY):
    request = RequestFactory().get("/x", headers={"Authorization": f"Bearer {key}"})
    return pattern.callback(request, queue=queue)


def test_an_alias_names_its_successor_beside_other_links(configuration):
    answer = _get(_ALIAS, "a b")

    assert answer["Deprecation"] == f"@{DEPRECATED_SINCE_S}"
    assert answer["Link"] == '</next>; rel="next", </new/a%20b/tasks>; rel="successor-version"'


def test_an_alias_is_deprecated_for_those_it_refuses_too(configuration):
    answer = _get(_ALIAS, "mail", key="wrong")

    assert answer.status_code == 401
    assert answer["Link"] == '</new/mail/tasks>; rel="successor-version"'


def test_the_path_of_the_reference_is_not_deprecated(configuration):
    answer = _get(_PATH, "mail")

    assert answer.content == b"mail"
    assert not answer.has_header("Deprecation")


def test_both_have_names(configuration):
    assert (_PATH.name, _ALIAS.name) == ("listing", "listing-alias")
