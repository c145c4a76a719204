"""Environment variables as lines."""

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from queues.admin.fields import format_env_vars, parse_env_vars

texts = st.text(st.characters(exclude_categories=("Cs",)))


@given(st.dictionaries(st.sampled_from(["A", "B", "C_1"]), texts))
def test_formatted_variables_are_parsed_back(variables: dict[str, str]) -> None:
    sent = format_env_vars(variables).replace("\n", "\r\n")  # as browsers do

    assert parse_env_vars(sent) == variables


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("", {}),
        ("A=1\n\n  B = two words", {"A": "1", "B": " two words"}),
        ("A=a=b", {"A": "a=b"}),
        ("A=", {"A": ""}),
        ('A="x\\ny"', {"A": "x\ny"}),
        ('A="broken', {"A": '"broken'}),
        ('A="bro"ken"', {"A": '"bro"ken"'}),
    ],
)
def test_lines_are_parsed(text: str, variables: dict[str, str]) -> None:
    assert parse_env_vars(text) == variables


def test_each_invalid_line_is_named() -> None:
    with pytest.raises(ValidationError) as caught:
        parse_env_vars("A=1\nnonsense\nA=2")

    assert caught.value.messages == ["Line 2: Must be KEY=value.", "Line 3: A is set on an earlier line."]
