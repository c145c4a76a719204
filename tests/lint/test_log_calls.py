"""What log calls name their members: structlog refuses or overwrites some names, and only when the call is made."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.lint.test_layers import PACKAGES, ROOT

RESERVED = {"self", "event", "level", "timestamp", "exception", "stack", "logger", "logger_name"}
"""Parameters of structlog's methods, which end the call with a TypeError, and members that processors set."""
METHODS = {
    "debug",
    "info",
    "warning",
    "warn",
    "error",
    "critical",
    "fatal",
    "exception",
    "log",
    "msg",
    "bind",
    "record",
}
FUNCTIONS = {"bind_contextvars", "bound_contextvars", "FailureLog"}
RECEIVER = re.compile(r"(?:^|[._])(?:log|logger|failures?)(?:$|[.(\[])|get_logger\(")


def log_calls(source: str) -> Iterator[ast.Call]:
    """Yield the calls that write a log, or give its entries members."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute):
            is_method = node.func.attr in METHODS and RECEIVER.search(ast.unparse(node.func.value))
            if is_method or node.func.attr in FUNCTIONS:
                yield node
        elif isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            yield node


def reserved_members(source: str) -> list[str]:
    """Return the reserved names among the members of log calls."""
    return [word.arg for call in log_calls(source) for word in call.keywords if word.arg in RESERVED]


def test_no_log_call_has_a_member_with_a_reserved_name() -> None:
    sources = {
        file: file.read_text() for name in (*PACKAGES, "tools/soak") for file in sorted((ROOT / name).rglob("*.py"))
    }

    found = {str(file.relative_to(ROOT)): names for file, text in sources.items() if (names := reserved_members(text))}

    assert sum(1 for text in sources.values() for _ in log_calls(text)) > 100
    assert found == {}


@pytest.mark.parametrize(
    "call",
    [
        "log.warning('a', event=1)",
        "self._log.info('a', level=1)",
        "structlog.get_logger().bind(timestamp=1)",
        "self._log.bind(a=1).error('b', event=2)",
        "self._failures.record('a', key='b', event=1)",
        "FailureLog('a', event=1)",
        "bind_contextvars(event=1)",
    ],
)
def test_a_reserved_name_is_detected(call: str) -> None:
    assert len(reserved_members(call)) == 1
