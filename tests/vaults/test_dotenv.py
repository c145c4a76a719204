"""Parsing of KEY=value lines."""

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
def test_a_value_is_parsed(text: str, value: str) -> None:
    found = dotenv.parse_env(text)

    assert (found.values, found.errors) == ({"A": value}, ())


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("A=1\nhello", 2, "Must be KEY=value. Quote a value of several lines."),
        ("A=1\n\n9A=2", 3, "Use letters, digits and `_`, not beginning with a digit."),
        ("A=1\nPATH=x", 2, "PATH is reserved for the worker."),
        ("A=1\nB=", 2, "The value may not be empty."),
        ("A=1\nB=#x", 2, "The value may not be empty."),
        ("A=1\nA=2", 2, "A is already set in line 1."),
        ("A=1\nB='x\nC=2", 2, "The ' is not closed."),
        ('A=1\nB="x" y', 2, 'Unexpected text after the closing ".'),
        (f"A=1\nB={PEM}", 2, "Quote a value of several lines."),
        (f"A=1\nB={'x' * 65537}", 2, "The value may have at most 64 KiB."),
    ],
)
def test_an_error_has_its_line(text: str, line: int, sentence: str) -> None:
    found = dotenv.parse_env(text)

    assert [(error.line, error.message) for error in found.errors] == [(line, sentence)]
    assert found.values == {"A": "1"}


def test_size_and_number_of_entries_are_limited() -> None:
    assert "more than 1 MiB" in dotenv.parse_env("A" * (dotenv.TEXT_MAX_LENGTH + 1)).errors[0].message
    many = dotenv.parse_env("\n".join(f"A{number}=1" for number in range(1200)))
    assert len(many.values) == dotenv.ENTRIES_MAX
    assert [(error.line, error.message) for error in many.errors] == [(1001, "There are more than 1000 entries.")]


@pytest.mark.parametrize("unit", ["A='1'\n", 'A="', "A='\n", 'A="\\', "\\", "\n", "A=-----BEGIN\n", "x\n", "A=1 #\n"])
def test_parsing_takes_linear_time(unit: str) -> None:
    text = unit * (dotenv.TEXT_MAX_LENGTH // len(unit))
    began = time.process_time()

    dotenv.parse_env(text)

    assert time.process_time() - began < 10  # a quadratic walk takes hours


def test_values_are_not_in_the_repr() -> None:
    assert "hidden" not in repr(dotenv.parse_env("A=hidden"))


@given(st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), min_size=1))
def test_every_quoted_value_survives_a_round_trip(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')

    assert dotenv.parse_env(f'A="{escaped}"').values == {"A": value}


@given(st.text())
def test_no_text_crashes_the_parser(text: str) -> None:
    found = dotenv.parse_env(text)

    assert set(found.lines) == set(found.values)
