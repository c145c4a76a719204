"""A worker that runs the tasks of the tests' project in one child, without deploying it."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward
from runqy.broker.states import TaskState
from runqy.broker.streams.run_log import RunInfo
from runqy.broker.tasks.finish import Failure, archive, complete, retry
from runqy.broker.tasks.lease import LeasedTask
from tests.support.tasks import take
from workers.runtime.task_lines import encode_task


class DjangoWorker:
    """Sends each task to the child, and records how it ends."""

    def __init__(self, broker: Broker, queues: tuple[str, ...], command: list[str], **options: Any) -> None:
        self._broker = broker
        self._queues = queues
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        ready = json.loads(self._child.stdout.readline())
        assert ready["status"] == "ready", ready
        self._thread.start()

    def stop(self) -> None:
        self._is_ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self._child.communicate()

    def _run(self) -> None:
        while not self._is_ending.wait(0.01):
            for taken in take(self._broker, 1, *self._queues):
                self._run_task(taken)

    def _run_task(self, taken: LeasedTask) -> None:
        broker, queue = self._broker, taken.lease.queue
        if queue == "foreign":
            broker.run(complete(taken.lease, taken.message, b'"other"', now_ns=broker.now_ns()))
            return
        with suppress(BrokenPipeError):
            self._child.stdin.write(encode_task(taken.message, attempt=taken.run_number))
            self._child.stdin.flush()
        line = self._child.stdout.readline() or b'{"error": "the child ended", "retry": false}'
        response = json.loads(line)
        info = RunInfo(error_class=response.get("error_class") or "")
        if not response["error"]:
            result = json.dumps(response["result"]).encode()
            broker.run(complete(taken.lease, taken.message, result, now_ns=broker.now_ns()))
        elif response["retry"] and taken.message.retried < taken.message.retry:
            failure = Failure(error=response["error"], retry_at_s=broker.now_s() + int(response["retry_delay_s"]))
            broker.run(retry(taken.lease, taken.message, failure, now_ns=broker.now_ns(), info=info))
            broker.run(forward(queue, TaskState.RETRY, now_ns=broker.now_ns()))
        else:
            broker.run(archive(taken.lease, taken.message, error=response["error"], now_ns=broker.now_ns(), info=info))


@contextmanager
def django_worker(broker: Broker, queues: tuple[str, ...], command: list[str], **options: Any) -> Iterator[None]:
    worker = DjangoWorker(broker, queues, command, **options)
    try:
        worker.start()
        yield
    finally:
        worker.stop()
