"""What If-Match and If-None-Match mean, whatever they are asked about."""

import pytest
from django.test import RequestFactory
from rest_framework.request import Request

from runqy.api.preconditions import etag_response, if_match, matches_if_none_match, version_of
from runqy.errors import PreconditionFailed, PreconditionRequired


def request(**headers):
    """Return a request with these headers."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(RequestFactory().get("/x", headers=headers))


@pytest.mark.parametrize("header", ['"a"', '"b", "a"', '"b","a" ', '"b",,"a"', "*", '"", "a"'])
def test_a_change_of_what_was_meant_goes_on(header):
    if_match(request(If_Match=header))("a")


@pytest.mark.parametrize("header", ['"b"', 'W/"a"', "a", '"a', 'a"', '"ab"', '"b" "a"', "", " "])
def test_a_change_of_something_else_is_refused_with_what_there_is(header):
    with pytest.raises(PreconditionFailed, match='"a"'):
        if_match(request(If_Match=header))("a")


def test_a_change_without_a_condition_is_refused_where_one_has_to_be():
    with pytest.raises(PreconditionRequired):
        if_match(request(), is_required=True)
    if_match(request(If_Match='"a"'), is_required=True)("a")
    if_match(request())("a")


@pytest.mark.parametrize(
    ("header", "known"),
    [('"a"', True), ('W/"a"', True), ('"b", W/"a"', True), ("*", True), ("", False), ('"b"', False), ("a", False)],
)
def test_a_reader_says_what_it_has(header, known):
    assert matches_if_none_match(request(If_None_Match=header).headers, "a") is known


def test_the_response_to_a_client_that_has_the_version_is_empty_with_its_etag():
    known = etag_response(request(If_None_Match='"a"'), {"x": 1}, "a")
    changed = etag_response(request(If_None_Match='"b"'), {"x": 1}, "a")

    assert (known.status_code, known.data, known["ETag"]) == (304, None, '"a"')
    assert (changed.status_code, changed.data, changed["ETag"]) == (200, {"x": 1}, '"a"')


def test_versions_differ_where_a_part_does():
    assert len({version_of("a", "b"), version_of("ab"), version_of("b", "a"), version_of("a", "b", "")}) == 4
    assert version_of("a", 1) == version_of("a", "1")
