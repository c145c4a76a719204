"""The failure rates in docs/monitoring, and what the server counts as a failure."""

import re
from pathlib import Path

import pytest

from runqy.broker.states import FAILURES, RunOutcome

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"


@pytest.mark.parametrize("name", ["alerts.yml", "grafana-dashboard.json"])
def test_a_failure_rate_counts_the_failures_of_the_server(name: str) -> None:
    content = (MONITORING / name).read_text()

    lists = re.findall(r'runqy_task_runs_total\{[^}]*outcome=~\\?"([^"\\]*)', content)

    rates = [frozenset(outcomes.split("|")) for outcomes in lists]
    assert {*rates} == {FAILURES, FAILURES | {RunOutcome.COMPLETED}}
    assert len(rates) in (2, 4)
