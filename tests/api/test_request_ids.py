"""A request has one id: in its response, its problem and the log."""

import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from tests.api.client import ApiClient, problem


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    """Collect the lines of the log that this thread writes; others may have something to say at any time."""
    lines, own_thread = list[dict[str, Any]](), threading.get_ident()
    formatters = (handler.formatter for handler in logging.getLogger().handlers)
    formatter = next(found for found in formatters if isinstance(found, structlog.stdlib.ProcessorFormatter))

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == own_thread:
                lines.append(json.loads(formatter.format(record)))

    handler = Collector()
    logging.getLogger().addHandler(handler)
    yield lines
    logging.getLogger().removeHandler(handler)


@pytest.mark.usefixtures("configuration", "each_plane")
@pytest.mark.parametrize("path", ["/queue/x", "/nowhere", "/admin/nowhere", "/swagger/index.html"])
def test_every_response_has_the_clients_request_id(path: str) -> None:
    response = ApiClient().get(path, **{"X-Request-ID": "abc:1/2+3="})

    assert response["X-Request-ID"] == "abc:1/2+3="


@pytest.mark.usefixtures("configuration", "each_plane")
@pytest.mark.parametrize("given", ["", "a b", "a\x7f", "é", "x" * 129, "a\tb"])
def test_an_invalid_request_id_is_replaced(given: str) -> None:
    responses = [ApiClient().get("/queue/x", **{"X-Request-ID": given}) for _ in range(2)]

    names = {response["X-Request-ID"] for response in responses}
    assert len(names) == 2
    assert all(len(name) == 16 for name in names)
    assert problem(responses[0])["request_id"] == responses[0]["X-Request-ID"]


@pytest.mark.usefixtures("configuration", "each_plane")
def test_log_records_of_a_request_have_its_id_and_later_ones_do_not(
    logged: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("runqy.accounts.api.viewsets.get_api_key", fail)
    response = ApiClient().get("/api/keys/1", **{"X-Request-ID": "r1"})
    logging.getLogger("later").error("later")

    assert response.status_code == 500
    assert [line.get("request_id") for line in logged] == [*["r1"] * (len(logged) - 1), None]
    assert len(logged) > 1
