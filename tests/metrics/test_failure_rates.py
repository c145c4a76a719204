"""The failure rates in docs/monitoring, and what the server counts as a failure."""

import re
from pathlib import Path

import pytest

from runqy.broker.states import FAILURES, RunOutcome

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"


@pytest.mark.parametrize("name", ["alerts.yml", "grafana-dashboard.json"])
def test_a_failure_rate_counts_the_failures_of_the_server(name: str) -> None:
    content = (MONITORING / name).read_text()

    lists = re.findall(r'runqy_(first_attempts|tasks_ended)_total\{[^}]*outcome=~\\?"([^"\\]*)', content)

    rates = {(counter, frozenset(outcomes.split("|"))) for counter, outcomes in lists}
    assert rates == {("first_attempts", FAILURES), ("tasks_ended", FAILURES - {RunOutcome.RETRIED})}
