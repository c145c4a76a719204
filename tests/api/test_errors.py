"""Errors have codes of their own; the documentation lists them."""

from tools.documentation.errors import kinds


def test_a_code_means_one_thing() -> None:
    codes = [kind.code for kind in kinds()]

    assert len(codes) == len(set(codes))


def test_errors_have_an_error_status_and_a_message() -> None:
    for kind in kinds():
        assert 400 <= kind.status < 600, kind
        assert (kind.__doc__ or "").rstrip().endswith((".", ">")), kind
