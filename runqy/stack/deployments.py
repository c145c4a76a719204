"""The queues of a stack, and the state of their deployment by its worker."""

import http.client
import json
from collections.abc import Callable, Sequence

from runqy import clock, settings
from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import list_worker_records
from runqy.broker.workers.records import WorkerRecord, WorkerState
from runqy.core.environment.connection_urls import RedisTarget
from runqy.core.environment.home import get_or_create_secret
from runqy.core.formats.error_texts import without_hints
from runqy.errors import BrokerUnavailable
from runqy.stack.instance import Instance

_REGISTERED_WITHIN_S = 30.0
"""How long the stack waits for the worker to register for a queue."""
_PROGRESS_EVERY_S = 10.0
_REASON_CHARS = 160
_GIT_ERROR = "fatal: "
_SETTLED = (WorkerState.READY, WorkerState.START_FAILED)


class DeploymentMonitor:
    """Reads the records that the worker keeps of its queues, and reports their progress."""

    def __init__(self, target: RedisTarget, queues: Sequence[str], report: Callable[[str], None]) -> None:
        self._broker = Broker(target)
        self._started = clock.monotonic_s()
        self._since_s = clock.now_ns() // 1_000_000_000
        self._queues = frozenset(queues)
        self._report = report
        self._states: dict[str, str] = {}
        self._next_progress_s = _PROGRESS_EVERY_S
        # By queue. Only of workers that started after this: the record of a killed worker lasts a minute.
        self.records: dict[str, WorkerRecord] = {}

    def are_settled(self) -> bool:
        """Read the records again and report changes. Return whether every queue is ready or has failed."""
        self._read_records()
        for queue, record in sorted(self.records.items()):
            state = describe_state(record)
            if self._states.get(queue) != state:
                self._states[queue] = state
                reason = describe_reason(record)
                self._report(f"  {queue}: {state}{f': {reason}' if reason else ''}")
        unsettled = sorted(queue for queue in self._queues if not self._is_settled(queue))
        if unsettled:
            self._report_progress(unsettled)
        return not unsettled

    def _is_settled(self, queue: str) -> bool:
        if record := self.records.get(queue):
            return record.state in _SETTLED or record.is_refused
        return clock.monotonic_s() > self._started + _REGISTERED_WITHIN_S

    def _report_progress(self, unsettled: Sequence[str]) -> None:
        waited_s = clock.monotonic_s() - self._started
        if waited_s < self._next_progress_s:
            return
        self._next_progress_s = waited_s + _PROGRESS_EVERY_S
        states = ", ".join(f"{queue} ({describe_state(self.records.get(queue))})" for queue in unsettled)
        self._report(f"  after {waited_s:.0f} s still waiting for {states}")

    def _read_records(self) -> None:
        try:
            found = list_worker_records(self._broker)
        except BrokerUnavailable:
            return
        ours = [one for one in found if one.queue in self._queues and one.started_at_s >= self._since_s]
        self.records = {one.queue: one for one in sorted(ours, key=lambda one: one.started_at_s)}

    def close(self) -> None:
        self._broker.close()


def describe_state(record: WorkerRecord | None) -> str:
    return "not registered" if record is None or record.is_refused else record.state.replace("_", " ")


def describe_reason(record: WorkerRecord | None) -> str:
    """Return the reason of a state on one line, shortened at its start."""
    lines = without_hints(record.reason) if record else []
    # The last line of an error. Git's errors have a fatal line, which general advice follows.
    line = next((line for line in lines if _GIT_ERROR in line), lines[-1] if lines else "")
    text = " ".join(line.split())
    return text if len(text) <= _REASON_CHARS else f"… {text[-_REASON_CHARS:]}"


def is_ready(record: WorkerRecord | None) -> bool:
    return record is not None and record.state is WorkerState.READY


def list_enabled_queues(instance: Instance) -> set[str]:
    """Return the enabled queues of the server; empty if it does not respond."""
    key = settings.RUNQY_API_KEY or get_or_create_secret(instance.home, "api_key")
    connection = http.client.HTTPConnection("127.0.0.1", instance.port, timeout=5)
    try:
        connection.request("GET", "/api/cli/queues", headers={"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        queues = json.load(response)["queues"] if response.status == http.client.OK else []
    except (OSError, http.client.HTTPException, ValueError):
        return set()
    finally:
        connection.close()
    return {queue["parent"] or queue["queue"] for queue in queues if queue["is_defined"] and queue["is_enabled"]}
