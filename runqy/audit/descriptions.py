"""The words for the actions and objects of audit records."""

import re

_KINDS = {"api_key": "API key"}
"""Kinds of objects whose words differ from their names."""
_KEY_NAME = re.compile(r"(\d+) (.+)", re.DOTALL)


def describe_action(action: str) -> str:
    """Return what was done to the object: `created`, `cancellation requested`."""
    return action.rpartition(".")[2].replace("_", " ")


def describe_object(kind: str, name: str) -> str:
    """Return the kind and the name of an object, and an id that is part of the name after it."""
    if kind == "api_key" and (match := _KEY_NAME.fullmatch(name)):
        name = f"{match[2]} (id {match[1]})"
    elif kind == "alert_rule":
        rule, _, queue = name.partition("/")
        name = f"{rule.replace('_', ' ')} of {queue or 'all queues'}"
    return f"{_KINDS.get(kind, kind.replace('_', ' '))} {name}"
