"""Reads pages of metrics."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.api.client import ApiClient
from tests.support.environment import ADMIN_KEY

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read_page(key: str = ADMIN_KEY, **headers: str) -> Samples:
    """Return the samples of /metrics."""
    response = ApiClient(key).get("/metrics", **headers)
    assert response.status_code == 200, response.content
    assert response["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(response.content.decode())


def parse(text: str) -> Samples:
    """Return the samples by name and sorted labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: Any) -> float | None:
    """Return the value of a sample, None without it."""
    return samples.get((name, tuple(sorted(labels.items()))))
