"""An alert whose condition cannot be looked at, because of a bug or an odd row, stays as it is."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.utils import timezone

from alerts.kinds import AlertKind
from alerts.models import Alert
from alerts.operations import update_alerts
from alerts.rules import RULES, failures
from batches.models import Batch
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.configuration import snapshot
from runqy.maintenance.models import FailedRow
from tests.alerts.test_kinds import CAUSES, advance
from tests.queues.samples import spec

pytestmark = pytest.mark.usefixtures("configuration", "stopped_clock")
Break = Callable[[pytest.MonkeyPatch, AlertKind], object]


@pytest.fixture(autouse=True)
def _fails_no_longer(configuration: None) -> Iterator[None]:
    yield
    FailedRow.objects.all().delete()
    failures.begin_pass()


def fail(*_: object, **__: object) -> Any:
    raise ZeroDivisionError


def break_rule(member: str) -> Break:
    return lambda patch, kind: patch.setitem(RULES, kind, replace(RULES[kind], **{member: fail}))  # type: ignore[arg-type]


def break_name(name: str) -> Break:
    return lambda patch, _: patch.setattr(f"alerts.queries.{name}", fail)


@pytest.mark.parametrize(
    ("kind", "break_it"),
    [
        (AlertKind.OLDEST_PENDING, break_rule("check")),
        (AlertKind.OLDEST_PENDING, break_name("QueueObservation")),
        (AlertKind.WORKER_START_FAILED, break_rule("find")),
        (AlertKind.WORKER_START_FAILED, break_name("WorkerObservation")),
        (AlertKind.HISTORY_DROPPED, break_rule("find")),
        (AlertKind.INACTIVE_KEY_CREATOR, break_name("find_keys_of_inactive_users")),
        (AlertKind.BATCH_INCOMPLETE, lambda *_: Batch.objects.update(counts=7)),
    ],
)
def test_an_alert_stays_open_while_its_rule_raises(
    kind: AlertKind, break_it: Break, single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    cause = CAUSES[kind]
    cause.arrange(single_broker)
    update_alerts(single_broker)
    with monkeypatch.context() as patch:
        break_it(patch, kind)
        for _ in range(2):  # when it raises, and while it is paused
            advance(minutes=20)
            update_alerts(single_broker)
            assert Alert.objects.get(kind=kind).resolved_at is None
    assert set(FailedRow.objects.values_list("times", flat=True)) == {1}

    cause.remove(single_broker)
    snapshot.forget()
    FailedRow.objects.update(paused_until=timezone.now())
    update_alerts(single_broker)

    assert Alert.objects.get(kind=kind).resolved_at is not None


def test_a_row_that_raises_keeps_only_its_own_alert_open(single_broker: Broker) -> None:
    for _ in range(2):
        CAUSES[AlertKind.BATCH_INCOMPLETE].arrange(single_broker)
    update_alerts(single_broker)
    odd, solved = Batch.objects.all()
    Batch.objects.filter(pk=odd.pk).update(counts=7)
    Batch.objects.filter(pk=solved.pk).update(has_problem=False)

    update_alerts(single_broker)

    resolved = dict(Alert.objects.filter(kind=AlertKind.BATCH_INCOMPLETE).values_list("subject", "resolved_at"))
    assert (resolved[odd.pk], resolved[solved.pk] is not None) == (None, True)
