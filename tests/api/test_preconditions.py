"""What If-Match and If-None-Match mean, whatever they are asked about."""

import pytest
from django.test import RequestFactory

from runqy.api.preconditions import if_match, is_known, not_modified, version_of
from runqy.errors import PreconditionFailed, PreconditionRequired


def request(**headers):
    """Return a request with these headers."""
    return RequestFactory().get("/x", headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("header", ['"a"', '"b", "a"', '"b","a" ', "*", '"", "a"'])
def test_a_change_of_what_was_meant_goes_on(header):
    if_match(request(If_Match=header))("a")


@pytest.mark.parametrize("header", ['"b"', 'W/"a"', "a", '"a', 'a"', '"ab"', '"b" "a"', '"b",,"a"', "", " "])
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
    assert is_known(request(If_None_Match=header), "a") is known


def test_an_answer_to_a_reader_that_has_it_is_empty_and_tagged():
    answer = not_modified("a")

    assert (answer.status_code, answer.content, answer["ETag"]) == (304, b"", '"a"')
    assert not answer.has_header("Content-Type")


def test_versions_differ_where_a_part_does():
    assert len({version_of("a", "b"), version_of("ab"), version_of("b", "a"), version_of("a", "b", "")}) == 4
    assert version_of("a", 1) == version_of("a", "1")
