"""Environment variables as lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queues.admin.variables import VariablesInvalid, parse_variables, write_variables

texts = st.text(st.characters(exclude_categories=("Cs",)))


@given(st.dictionaries(st.sampled_from(["A", "B", "C_1"]), texts))
def test_what_is_written_is_read_back(variables: dict[str, str]) -> None:
    sent = write_variables(variables).replace("\n", "\r\n")  # as browsers do

    assert parse_variables(sent) == variables


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
def test_lines_mean_what_people_expect(text: str, variables: dict[str, str]) -> None:
    assert parse_variables(text) == variables


def test_each_line_that_is_wrong_is_named() -> None:
    with pytest.raises(VariablesInvalid) as caught:
        parse_variables("A=1\nnonsense\nA=2")

    assert caught.value.sentences == ["Line 2: it must be KEY=value.", "Line 3: A stands further up too."]
