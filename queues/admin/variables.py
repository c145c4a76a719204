"""Reads and writes environment variables as people do: a line each, `KEY=value`."""

import json
from collections.abc import Mapping

__all__ = ["VariablesInvalid", "parse_variables", "write_variables"]


class VariablesInvalid(ValueError):
    """The lines cannot be read; `sentences` name each that is wrong."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("; ".join(sentences))
        self.sentences = sentences


def parse_variables(text: str) -> dict[str, str]:
    """Return the variables that are written.

    A value in double quotes is a JSON text, in which `\\n` is a line break; any other counts as it stands. Raises
    VariablesInvalid.
    """
    variables: dict[str, str] = {}
    problems = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        name, mark, value = line.partition("=")
        name = name.strip()
        if not mark:
            problems.append(f"Line {number}: it must be KEY=value.")
        elif name in variables:
            problems.append(f"Line {number}: {name} stands further up too.")
        else:
            variables[name] = _unquoted(value)
    if problems:
        raise VariablesInvalid(problems)
    return variables


def write_variables(variables: Mapping[str, str]) -> str:
    """Return the lines of some variables; reading them gives the same again."""
    return "\n".join(f"{name}={_quoted(value)}" for name, value in variables.items())


def _unquoted(value: str) -> str:
    """Return what a value means."""
    if len(value) >= 2 and value.startswith('"') and value.endswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value


def _quoted(value: str) -> str:
    """Return a value as it is written; quoted where a line, or a form, would make something else of it."""
    needs_quotes = value != value.strip() or any(mark in value for mark in "\r\n\0") or _unquoted(value) != value
    return json.dumps(value, ensure_ascii=False) if needs_quotes else value
