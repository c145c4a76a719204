"""Workers on a machine without free descriptors: they wait, blame no release, and go on once there are some."""

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward_due
from runqy.broker.workers.heartbeats import list_worker_records
from runqy.core.concurrency.threads import run_in_thread
from runqy.core.git.commands import CommandRunner
from runqy.core.git.limits import Limits
from runqy.errors import DeploymentFailed, ResourcesExhausted
from tests.support import event_loop
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer, change_configuration
from tests.workers.pools import SETTINGS, Recorder, a_run, child_spec, until, use
from tests.workers.processes import (
    WorkerProcess,
    add_task,
    wait_for_record,
    wait_for_state,
    wait_task,
)
from tests.workers.repositories import Repository
from tests.workers.test_deployment import deployment_spec
from workers.deploy import exec_child
from workers.deploy.deployment import deploy
from workers.runtime import child
from workers.runtime.long_running import LongRunningPool
from workers.runtime.one_shot import OneShotPool
from workers.runtime.pool import Pool
from workers.runtime.startup_limits import StartupLimits
from workers.runtime.task_runs import RunStatus

NO_DESCRIPTORS = "the machine is out of file descriptors of this process (EMFILE: Too many open files)"
NO_PROCESSES = "the machine is out of processes or threads (EAGAIN: Resource temporarily unavailable)"
LIMITED = Limits(memory_bytes=1 << 30)
ECHO = """
import json, sys
print(json.dumps({"status": "ready"}), flush=True)
for line in sys.stdin:
    print(json.dumps({"task_id": json.loads(line)["task_id"], "result": 1}), flush=True)
"""
REFUSED_FORK = """
import errno, os, runpy, sys
def fork():
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
flag, *sys.argv = sys.argv[1:]
if not os.path.exists(flag):
    os.fork = fork
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs the launcher on a machine that may have no more processes while a file is missing."""


@contextmanager
def limited_descriptors(pid: int, limit: int) -> Iterator[None]:
    """Let a process open no descriptor with this number or a higher one."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def without_descriptors(worker: WorkerProcess) -> Any:
    """Let a worker that runs open nothing more."""
    return limited_descriptors(worker.process.pid, 3)


def open_descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def lowest_free() -> int:
    with open(os.devnull) as file:
        return file.fileno()


def started_by(task: dict[str, str]) -> int:
    """Return the process that runs a waiting task."""
    started = Path(task["started"])
    return int(eventually(lambda: started.exists() and started.read_text()))


def results_of(broker: Broker, *, count: int) -> list[bytes | None]:
    """Run tasks that return the process that ran them, as many at once."""
    ids = [add_task(broker, {"do": "pid"}) for _ in range(count)]
    return [wait_for_state(broker, task_id, "completed").result for task_id in ids]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_children_without_descriptors_start_later_and_no_release_is_blamed(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker, tmp_path: Path, mode: str
) -> None:
    server.response |= {"release": {"number": 7}, "limits": {"retry_delay_secs": 0, "retry_max_delay_secs": 1}}
    server.response["queue"] |= {"mode": mode}
    server.response["deployment"]["env_vars"] = {"MODE": mode}
    held = [wait_task(tmp_path, f"held{number}") for number in range(2)]
    worker = start_worker(RUNQY_PROCESSES="2", RUNQY_CONCURRENCY="2")
    ids = [add_task(single_broker, task, max_retry=1) for task in held]
    children = [started_by(task) for task in held]
    ids += [add_task(single_broker, {"do": "pid"}, max_retry=1) for _ in range(8)]

    with without_descriptors(worker):
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        record = wait_for_record(single_broker, "start_failed")
    for task in held:
        Path(task["until"]).touch()

    assert record.reason == f"the child process cannot be started: {NO_DESCRIPTORS}"
    assert (record.release, record.failed_release, record.release_failures) == (7, 0, record.release_deaths)
    assert worker.events("child_not_started")[0]["error"] == record.reason
    eventually(lambda: single_broker.run(forward_due(single_broker, ["mail"])))
    for task_id in ids:
        assert wait_for_state(single_broker, task_id, "completed", "archived").retried == 0
    processes = set[bytes | None]()
    eventually(lambda: processes.update(results_of(single_broker, count=2)) or len(processes) > 1)
    assert not worker.events("deployment_failed")


@pytest.mark.slow
def test_a_worker_without_descriptors_goes_on_to_look_for_its_server_and_its_redis(
    redis: redis_py.Redis, single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["queue"]["revision"] = "1"
    worker = start_worker()
    wait_for_record(single_broker, "ready")

    with without_descriptors(worker):
        server.response["release"] = {"number": 2}
        change_configuration(redis, server, "2")
        worker.wait_for("not_registered")
        redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        worker.wait_for("broker_unavailable")

    wait_for_state(single_broker, add_task(single_broker, {"do": "pid"}), "completed")
    eventually(lambda: [one.release for one in list_worker_records(single_broker)] == [2])


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
def test_a_start_leaves_nothing_open_whichever_descriptor_is_missing(tmp_path: Path, kind: Any) -> None:
    spec, failures, shortages = child_spec(tmp_path, ECHO), [], set[str]()

    async def act(pool: Pool, recorder: Recorder) -> None:
        before, first = open_descriptors(), lowest_free()
        for missing in range(10):
            other: Pool = kind(recorder, SETTINGS, lambda: failures.append(1))
            with limited_descriptors(os.getpid(), first + missing):
                other.start(spec)
            assert other.problem == ""
            shortages.add(other.shortage)
            if kind is LongRunningPool:
                assert not other.loading_since_s
            await other.stop()
        assert open_descriptors() == before

    use(kind, spec, act)

    assert shortages == {f"the child process cannot be started: {NO_DESCRIPTORS}"}
    assert failures == []


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
def test_a_launcher_that_cannot_fork_says_so_and_another_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    may_fork, failures = tmp_path / "may-fork", []

    def launcher(**options: Any) -> list[str]:
        command = exec_child.launcher_command(**options)
        return [command[0], "-c", REFUSED_FORK, str(may_fork), *command[3:]]

    monkeypatch.setattr(child, "launcher_command", launcher)

    async def run() -> Recorder:
        recorder = Recorder()
        pool: Pool = kind(recorder, SETTINGS, lambda: failures.append(1))
        pool.start(child_spec(tmp_path, ECHO))
        await until(lambda: pool.shortage)
        assert (pool.shortage, pool.problem) == (f"the child process cannot be started: {NO_PROCESSES}", "")
        may_fork.touch()
        await until(lambda: pool.is_ready)
        pool.submit(a_run("t1", None))
        await until(lambda: recorder.results)
        assert pool.shortage == ""
        await pool.stop()
        return recorder

    assert event_loop.run(run()).statuses() == {"t1": RunStatus.SUCCEEDED}
    assert failures == []


def test_a_deployment_is_postponed_whichever_descriptor_is_missing_and_leaves_nothing_open(
    repository: Repository, tmp_path: Path
) -> None:
    repository.commit({"main.py": "", "requirements.txt": "# none\n"})
    deploy(deployment_spec(repository, tmp_path / "deployments"), CommandRunner()).release()
    repository.commit({"main.py": "2"})
    before, first, found, missing = open_descriptors(), lowest_free(), None, 0

    while found is None:
        try:
            with limited_descriptors(os.getpid(), first + missing):
                found = deploy(deployment_spec(repository, tmp_path / "deployments"), CommandRunner())
        except ResourcesExhausted as error:
            assert "Too many open files" in error.detail  # noqa: PT017 (how many it needs is not known)
        else:
            assert found.problem == ""
            found.release()
        assert open_descriptors() == before
        missing += 1

    assert missing > 7


@pytest.mark.parametrize(
    ("printed", "limits", "error"),
    [
        ("Too many open files (os error 24)", LIMITED, ResourcesExhausted),
        ("fatal: unable to create thread: Resource temporarily unavailable", Limits(), ResourcesExhausted),
        ("fatal: cannot fork() for fetch-pack: Cannot allocate memory", LIMITED, ResourcesExhausted),
        ("fatal: mmap failed: Cannot allocate memory", Limits(), ResourcesExhausted),
        ("fatal: mmap failed: Cannot allocate memory", LIMITED, DeploymentFailed),
        ("fatal: not a git repository", Limits(), DeploymentFailed),
    ],
)
def test_a_program_that_finds_the_machine_exhausted_is_not_to_blame(
    printed: str, limits: Limits, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"^sh .*failed") as caught:
        CommandRunner().run(
            ["sh", "-c", f"echo '{printed}' >&2; exit 128"], env={"PATH": os.defpath}, timeout_s=30, limits=limits
        )

    assert isinstance(caught.value, ResourcesExhausted) == (error is ResourcesExhausted)


def test_a_thread_that_the_machine_refuses_is_no_bug() -> None:
    before = threading.stack_size(1 << 44)  # more than there are addresses
    try:
        with pytest.raises(ResourcesExhausted, match="can't start new thread"):
            event_loop.run(run_in_thread(list))
    finally:
        threading.stack_size(before)


def test_a_child_is_not_silent_while_its_use_of_cpu_cannot_be_read() -> None:
    limits = StartupLimits(pid=os.getpid(), timeout_s=600, silence_s=0.01)

    with limited_descriptors(os.getpid(), 3):
        threading.Event().wait(0.02)
        problem = limits.check()

    assert problem == ""
