"""If-Match and If-None-Match."""

import pytest
from django.test import RequestFactory
from rest_framework.request import Request

from runqy.api.etags import etag_response, if_match, matches_if_none_match
from runqy.errors import PreconditionFailed, PreconditionRequired


def request(**headers):
    """Return a request with these headers."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(RequestFactory().get("/x", headers=headers))


@pytest.mark.parametrize("header", ['"a"', '"b", "a"', '"b","a" ', '"b",,"a"', "*", '"", "a"'])
def test_a_change_of_the_expected_version_is_applied(header):
    if_match(request(If_Match=header))("a")


@pytest.mark.parametrize("header", ['"b"', 'W/"a"', "a", '"a', 'a"', '"ab"', '"b" "a"', "", " "])
def test_a_change_of_another_version_is_refused_with_the_current_one(header):
    with pytest.raises(PreconditionFailed, match='"a"'):
        if_match(request(If_Match=header))("a")


def test_a_change_without_a_required_precondition_is_refused():
    with pytest.raises(PreconditionRequired):
        if_match(request(), is_required=True)
    if_match(request(If_Match='"a"'), is_required=True)("a")
    if_match(request())("a")


@pytest.mark.parametrize(
    ("header", "known"),
    [('"a"', True), ('W/"a"', True), ('"b", W/"a"', True), ("*", True), ("", False), ('"b"', False), ("a", False)],
)
def test_if_none_match_is_compared_with_the_version(header, known):
    assert matches_if_none_match(request(If_None_Match=header).headers, "a") is known


def test_a_304_is_empty_and_has_the_etag():
    known = etag_response(request(If_None_Match='"a"'), {"x": 1}, "a")
    changed = etag_response(request(If_None_Match='"b"'), {"x": 1}, "a")

    assert (known.status_code, known.data, known["ETag"]) == (304, None, '"a"')
    assert (changed.status_code, changed.data, changed["ETag"]) == (200, {"x": 1}, '"a"')
