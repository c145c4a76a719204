"""The open alerts and the last minutes of queues, for the pages and the API of queues."""

from collections import defaultdict
from collections.abc import Collection

from alerts.conditions import choose_rate
from alerts.kinds import EXPLAINS, AlertKind, AlertLevel
from alerts.models import Alert
from alerts.queries import AlertState, filter_alerts
from alerts.rules import RULES
from queues.health import VAULT_PROBLEM, QueueActivity, QueueProblem, register_activity
from tasks.history.recent import NO_COUNTS, RecentCounts, read_recent_history

_BEHIND = "falling behind"
_LABELS = {
    AlertKind.NO_READY_WORKER: "no worker",
    AlertKind.FAILURE_RATE: "failing",
    AlertKind.OLDEST_PENDING: _BEHIND,
    AlertKind.BACKLOG_GROWING: _BEHIND,
    AlertKind.VAULT_UNREADABLE: VAULT_PROBLEM,
}
"""Others have the label of their rule."""


@register_activity
def read_queue_activity(queues: Collection[str]) -> dict[str, QueueActivity]:
    """Return the activity of queues by name, in two queries."""
    alerts: defaultdict[str, list[Alert]] = defaultdict(list)
    for alert in filter_alerts(AlertState.OPEN).exclude(queue="").only("kind", "level", "queue", "message"):
        alerts[alert.queue].append(alert)
    recent = read_recent_history()
    activity = {}
    for name in queues:
        counts = recent.by_queue.get(name, NO_COUNTS)
        activity[name] = QueueActivity(
            problems=tuple(_list_problems(alerts.get(name, ()), counts)),
            pending_before=counts.backlog if recent.sampled_at else None,
            minutes=recent.backlog_age_min,
            started_per_minute=recent.per_minute(counts.started),
            failed_per_minute=recent.per_minute(counts.failed),
        )
    return activity


def _list_problems(alerts: Collection[Alert], counts: RecentCounts) -> list[QueueProblem]:
    """Return what alerts say, in the order of the rules, critical ones first."""
    kinds = {AlertKind(alert.kind) for alert in alerts}
    explained = {each for kind in kinds for each in EXPLAINS.get(kind, ())}
    order = list(RULES)
    shown = sorted(
        (alert for alert in alerts if alert.kind not in explained),
        key=lambda alert: (alert.level != AlertLevel.CRITICAL, order.index(AlertKind(alert.kind))),
    )
    return [
        QueueProblem(
            label=_label(AlertKind(alert.kind), counts),
            message=alert.message,
            is_critical=alert.level == AlertLevel.CRITICAL,
        )
        for alert in shown
    ]


def _label(kind: AlertKind, counts: RecentCounts) -> str:
    if kind is AlertKind.FAILURE_RATE:
        failed, ended, _ = choose_rate(counts.failures)
        return f"failing {100 * failed / ended:.0f} %" if ended else _LABELS[kind]
    return _LABELS.get(kind) or RULES[kind].label.lower()
