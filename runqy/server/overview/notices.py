"""The notices above the numbers of the overview: open alerts, and other problems that require attention."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from django.urls import reverse

from alerts.kinds import AlertLevel
from alerts.links import get_alert_link
from alerts.queries import count_open, list_unresolved
from runqy.accounts.queries import LIMITS_NOT_IN_REDIS, has_limits_not_in_redis
from runqy.admin_site.labels import changelist_url
from runqy.configuration.snapshot import get_snapshot
from runqy.server.overview.queue_counts import OverviewCounts
from vaults.queries import is_unlocked
from workers.queries import OWN_CREDENTIALS_SHARED, are_own_credentials_shared

MAX_SHOWN = 3
"""More would push the numbers off the first screen of a phone."""
_ICONS = {"danger": "error", "warning": "warning", "info": "info"}
"""The levels, most severe first, with icons, so that they can be distinguished without colours."""
_MAX_NAMES = 3
"""How many names a notice lists before "and … more"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A problem that requires attention."""

    message: str
    url: str = ""
    link: str = ""
    level: str = "warning"
    lasted: str = ""
    """How long the condition has lasted; empty if unknown."""
    is_alert: bool = False
    is_open: bool = False
    """Whether it is an alert that is open, which the list of alerts has."""

    @property
    def icon(self) -> str:
        return _ICONS[self.level]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notices:
    """What fits above the numbers, and what is behind it."""

    shown: Sequence[Notice]
    folded: Sequence[Notice]
    """Those that are no alerts: they have no list of their own."""
    alert_count: str
    """How many other alerts are open; empty if there are none."""


def read_notices(counts: OverviewCounts | None, permissions: frozenset[str]) -> Notices:
    """Return the notices that a user with these permissions may see. `counts` is None while Redis is unavailable."""
    notices = list_notices(counts, permissions)
    shown, others = notices[:MAX_SHOWN], notices[MAX_SHOWN:]
    alert_count = _count_alerts(shown) if "alerts.view_alert" in permissions else ""
    return Notices(shown=shown, folded=[each for each in others if not each.is_alert], alert_count=alert_count)


def list_notices(counts: OverviewCounts | None, permissions: frozenset[str]) -> list[Notice]:
    """Return the notices, most severe first."""
    notices: list[Notice] = []
    if counts is None:
        message = "Redis cannot be reached. Tasks wait; changes are saved, and published when it is back."
        notices.append(Notice(message=message, level="danger"))
    else:
        if "queues.view_queue" in permissions:
            notices += [*_check_maintenance(counts), *_check_queues(counts)]
        if "workers.view_worker" in permissions:
            notices += _check_credentials()
    if "alerts.view_alert" in permissions:
        notices += _list_alerts()
    if "vaults.view_vault" in permissions and not is_unlocked():
        message = "Vaults are disabled: RUNQY_VAULT_MASTER_KEY is not set."
        notices.append(Notice(message=message, level="info"))
    return sorted(notices, key=lambda notice: list(_ICONS).index(notice.level))


def _check_maintenance(counts: OverviewCounts) -> Iterator[Notice]:
    # Not an alert: without maintenance nothing evaluates the rules of alerts.
    if not counts.is_maintenance_running:
        message = (
            "No maintenance process is running. Scheduled and retry tasks do not start, and tasks of lost workers are "
            "not recovered. Start runqy serve or runqy manage run_maintenance, and check its log."
        )
        yield Notice(message=message, level="danger")


def _check_queues(counts: OverviewCounts) -> Iterator[Notice]:
    """Yield notices of paused queues, and of tasks in Redis queues without a definition."""
    if paused := [queue.name for queue in counts.queues if queue.is_paused]:
        message = f"Paused: {_join_names(paused)}."
        yield Notice(message=message, url=changelist_url("queues_queue"), link="Queues", level="info")
    if found := counts.undefined:
        waiting = sum(queue.waiting for queue in found)
        tasks = f"{waiting:,} task{'s' if waiting > 1 else ''}"
        names = _join_names([queue.queue for queue in found])
        message = f"{tasks} cannot run: no definition names the Redis queue{'s' if len(found) > 1 else ''} {names}."
        yield Notice(message=message, url=reverse("admin:queues_queue_undefined"), link="Adopt")


def _check_credentials() -> Iterator[Notice]:
    """Yield a notice if workers receive Redis credentials that are not limited to their queues."""
    if are_own_credentials_shared():
        yield Notice(message=OWN_CREDENTIALS_SHARED)
    elif has_limits_not_in_redis(get_snapshot()):
        yield Notice(message=LIMITS_NOT_IN_REDIS, url=changelist_url("accounts_apikey"), link="API keys")


def _list_alerts() -> Iterator[Notice]:
    """Yield the first unresolved alerts."""
    for alert in list_unresolved(limit=MAX_SHOWN):
        url, link = get_alert_link(alert)
        level = "danger" if alert.level == AlertLevel.CRITICAL else "warning"
        yield Notice(
            message=alert.message,
            url=url,
            link=link,
            level=level,
            lasted=alert.lasted,
            is_alert=True,
            is_open=alert.opened_at is not None,
        )


def _count_alerts(shown: Sequence[Notice]) -> str:
    """Return how many alerts are open besides those that are shown: `4 more alerts, 2 acknowledged or snoozed`."""
    unsilenced, silenced = count_open()
    more = max(unsilenced - sum(notice.is_open for notice in shown), 0)
    counts = [f"{more:,} more alert{'' if more == 1 else 's'}"] if more else []
    counts += [f"{silenced:,} acknowledged or snoozed"] if silenced else []
    return ", ".join(counts)


def _join_names(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES
    first = ", ".join(names[:_MAX_NAMES])
    return f"{first} and {more:,} more" if more > 0 else first
