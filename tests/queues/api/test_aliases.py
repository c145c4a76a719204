"""Deprecated paths of released clients."""

import pytest

from tests.api.client import ApiClient

ALIASES = {
    ("get", "/api/queues"): "/api/cli/queues",
    ("get", "/api/queues/inference.high"): "/api/cli/queues/inference.high",
    ("post", "/api/queues/inference.high/pause"): "/api/cli/queues/inference.high/pause",
    ("post", "/api/queues/inference.high/unpause"): "/api/cli/queues/inference.high/unpause",
    ("get", "/workers/queues"): "/api/cli/configs",
    ("get", "/workers/queues/inference.high"): "/api/cli/configs/inference.high",
    ("post", "/workers/reload"): "/api/cli/configs/reload",
}


@pytest.mark.parametrize(("method", "alias"), ALIASES)
def test_an_alias_is_deprecated_and_links_to_the_path_that_replaces_it(
    client: ApiClient, method: str, alias: str
) -> None:
    replacement = ALIASES[method, alias]

    old, new = getattr(client, method)(alias), getattr(client, method)(replacement)

    assert (old.status_code, new.status_code) == (200, 200)
    assert old["Link"] == f'<{replacement}>; rel="successor-version"'
    assert old.has_header("Deprecation")
    assert not new.has_header("Deprecation")
