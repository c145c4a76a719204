"""Lines of KEY=value, as people keep them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaults import dotenv

PEM = "-----BEGIN KEY-----\nMIIEvg==\nabc=\n-----END KEY-----"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=1", "1"),
        ("  export A = 1  ", "1"),
        ("A=a b", "a b"),
        ("A=a#b", "a#b"),
        ("A=a #b", "a"),
        ("A=x=y==", "x=y=="),
        ("A=$HOME", "$HOME"),
        ("A='a # \\n b'", "a # \\n b"),
        ('A="a\\n\\"b\\"\\\\ \\$c" # why', 'a\n"b"\\ $c'),
        ('A="ends in \\\\"', "ends in \\"),
        (f"A='{PEM}'", PEM),
        (f'A="{PEM}"\r\n', PEM),
        ("# first\n\nA=1\r\n", "1"),
    ],
)
def test_a_value_is_read_as_it_is_written(text: str, value: str) -> None:
    found = dotenv.parse(text)

    assert (found.values, found.problems) == ({"A": value}, ())


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("A=1\nhello", 2, "It is not KEY=value. Put a value of several lines in quotes."),
        ("A=1\n\n9A=2", 3, "A variable's name has letters, digits and `_`, and does not begin with a digit."),
        ("A=1\nPATH=x", 2, "PATH is reserved for the worker."),
        ("A=1\nB=", 2, "A value is not empty."),
        ("A=1\nB=#x", 2, "A value is not empty."),
        ("A=1\nA=2", 2, "A stands in line 1 already."),
        ("A=1\nB='x\nC=2", 2, "The ' that begins here is never closed."),
        ('A=1\nB="x" y', 2, 'Something stands behind the closing ".'),
        (f"A=1\nB={PEM}", 2, "Put a value of several lines in quotes."),
        (f"A=1\nB={'x' * 65537}", 2, "A value has at most 64 KiB."),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, sentence: str) -> None:
    found = dotenv.parse(text)

    assert [(problem.line, problem.sentence) for problem in found.problems] == [(line, sentence)]
    assert found.values == {"A": "1"}


def test_a_text_is_bounded_in_size_and_entries() -> None:
    assert "more than 1 MiB" in dotenv.parse("A" * (dotenv.LONGEST_TEXT + 1)).problems[0].sentence
    many = dotenv.parse("\n".join(f"A{number}=1" for number in range(1200)))
    assert len(many.values) == dotenv.MOST_ENTRIES
    assert [(problem.line, problem.sentence) for problem in many.problems] == [
        (1001, "These are more than 1000 entries.")
    ]


@pytest.mark.parametrize("unit", ["A='1'\n", 'A="', "A='\n", 'A="\\', "\\", "\n", "A=-----BEGIN\n", "x\n", "A=1 #\n"])
def test_a_hostile_text_takes_no_longer_than_a_harmless_one(unit: str) -> None:
    text = unit * (dotenv.LONGEST_TEXT // len(unit))
    began = time.process_time()

    dotenv.parse(text)

    assert time.process_time() - began < 10  # a quadratic walk takes hours


def test_values_are_not_in_what_is_printed_of_them() -> None:
    assert "hidden" not in repr(dotenv.parse("A=hidden"))


@given(st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), min_size=1))
def test_every_value_survives_quoting(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')

    assert dotenv.parse(f'A="{escaped}"').values == {"A": value}


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    found = dotenv.parse(text)

    assert set(found.lines) == set(found.values)
