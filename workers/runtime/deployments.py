"""A queue's deployment on this machine: its code, its virtual environment, and its pool of children."""

import asyncio
import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from runqy import clock
from runqy.broker.workers.records import Replacement, WorkerState
from runqy.core.concurrency.threads import run_in_thread
from runqy.core.formats.durations import humanize
from runqy.core.git.commands import CommandRunner
from runqy.core.git.credentials import GitCredentials
from runqy.core.git.sources import parse_source
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import DeploymentFailed, DeploymentRefused, DeploymentStopped, ResourcesExhausted
from vaults.entry_rules import variable_name_error
from workers.deploy.deployment import NO_FAILURE, Deployed, DeploymentSpec, Failure, deploy, failure_of
from workers.runtime.child import ChildSpec
from workers.runtime.consumer import Consumer
from workers.runtime.long_running import LongRunningPool
from workers.runtime.one_shot import OneShotPool
from workers.runtime.pool import Pool
from workers.runtime.redaction import environment_secrets
from workers.runtime.registration import RegisteredWorker, ReleaseInfo
from workers.runtime.settings import WorkerSettings

_INHERITED = re.compile(r"HOME|LANG|LANGUAGE|LC_[A-Z]+|TZ|TMPDIR")
CHILD_PROTOCOL = "2"
"""The version of the protocol up to which long_running children may announce what they can do."""
KEPT_RELEASES = 3
"""How many deployments of a queue stay on the disk, with the one that runs: a rollback needs neither git nor pip."""
_PATH = "/usr/local/bin:/usr/bin:/bin"

log = structlog.get_logger()


class DeploymentManager:
    """Deploys what registrations request, and starts and replaces the children."""

    def __init__(self, settings: WorkerSettings, consumer: Consumer, *, worker_id: str) -> None:
        self.pool: Pool | None = None
        # Set when a child failed, because newer code may fix it.
        self.child_failed = asyncio.Event()
        # What children run, or are being started with if none is ready, and the number of the release that they run.
        self.deployed: Deployed | None = None
        self.release = 0
        # Why the newest code does not run.
        self._problem = ""
        self._failure = NO_FAILURE
        self._failures = FailureLog("deployment_succeeded")
        self._started_release = self._problem_release = 0
        self._is_deploying = False
        # Its release was reverted or rolled back, and the one before is not started yet.
        self._is_going_back = False
        self._settings = settings
        self._consumer = consumer
        self._worker_id = worker_id
        # The commands of the current or the last deployment.
        self._commands: CommandRunner | None = None
        self._current: Deployed | None = None
        # The registration that the children were started for.
        self._running: RegisteredWorker | None = None
        # How the children were started.
        self._spec: ChildSpec | None = None
        # How often people asked for new children, and whether they are not ready yet.
        self._restarts = 0
        self._is_restarting = False
        # The numbers of the registration that they were started for.
        self._replacements: Mapping[str, int] = {}
        self._replacement = Replacement.NONE
        self._replacement_since_s = 0.0
        self._startup_s = 0.0
        # Earlier deployments, whose code children may still run.
        self._replaced: list[Deployed] = []

    @property
    def state(self) -> tuple[WorkerState, str]:
        """Return the worker's state, and the reason if it is not ready or runs older code."""
        shortage = self.pool.shortage if self.pool else ""
        if self.pool and self.pool.is_ready:
            return WorkerState.READY, self._problem or self.pool.next_problem or shortage
        if problem := shortage or (self.pool.problem if self.pool else "") or self._problem:
            return WorkerState.START_FAILED, problem
        if self._is_deploying:
            return WorkerState.DEPLOYING, ""
        if self._is_restarting:
            return WorkerState.RESTARTING, "its children are replaced, on request"
        since_s = self.pool.loading_since_s if self.pool else None
        # Whole minutes, because each change of the reason is sent as a heartbeat.
        minutes = int(clock.monotonic_s() - since_s) // 60 if since_s is not None else 0
        return WorkerState.STARTING, f"loading for {humanize(60 * minutes)}" if minutes else ""

    @property
    def replacement(self) -> Replacement:
        """Return whether the children are replaced, or are to be, because their environment has changed."""
        if self._replacement is Replacement.RUNNING and self.pool and self.pool.is_settled:
            self._set_replacement(Replacement.NONE)
        return self._replacement

    @property
    def replacement_s(self) -> float:
        """Return for how long they have waited for their turn, or have had it."""
        return clock.monotonic_s() - self._replacement_since_s if self.replacement else 0.0

    @property
    def startup_s(self) -> float:
        """Return how long the last start of a child took; 0 if none was ready yet."""
        self._startup_s = (self.pool.startup_s if self.pool else 0.0) or self._startup_s
        return self._startup_s

    @property
    def is_failing(self) -> bool:
        """Return whether a child failed since the last deployment, or none runs."""
        return self.child_failed.is_set() or bool(self.pool and (self.pool.problem or self.pool.next_problem))

    @property
    def failed_release(self) -> int:
        """Return the number of the release that could not be deployed or started; 0 if there is none.

        It is not to blame for a machine that is out of resources.
        """
        if self._problem:
            return self._problem_release
        has_failed = self.pool and (self.pool.problem or self.pool.next_problem)
        return self._started_release if has_failed else 0

    @property
    def failure(self) -> Failure:
        """Return the step at which that release failed, and its commit if it was fetched."""
        if self._problem or not self.failed_release or not self._current:
            return self._failure
        return Failure(commit=self._current.commit, info=self._current.info)

    def note_release(self) -> None:
        """Note what children run: older code until a child with the newest is ready."""
        if self.pool and self.pool.is_replacing:
            return
        self.deployed = self._current
        if self.pool and self.pool.is_ready and not self._problem:
            self.release = self._started_release

    async def deploy(self, registration: RegisteredWorker) -> bool:
        """Deploy what a registration requests and run it. Return whether the newest code runs now.

        The branch is checked for newer code if a redeploy requests it or the deployed code fails. Raise
        DeploymentStopped.
        """
        is_failing = self.is_failing
        self.child_failed.clear()
        kept = self._find_kept_release(registration.release)
        self._is_going_back = kept is not None
        if self.pool and self._spec and kept is not None:
            # Before anything is fetched: later releases were reverted, and tasks wait for this one.
            self.pool.retire_newer(kept, beside=not registration.deployment.replace_first)
            self._spec = replace(self._spec, release=0)  # its children end, and are started if it is wanted again
        is_deployed = self._running and self._running.deploys_like(registration) and not self._problem
        if self._current and is_deployed and not is_failing:
            await self._use(registration, self._current)
            return True
        self._is_deploying = True
        try:
            deployed = await self._fetch(registration)
        except (DeploymentFailed, DeploymentRefused) as error:
            self._failure = failure_of(error)
            self._record_failure(registration, error.detail)
            return False
        except ResourcesExhausted as error:
            self._problem, self._problem_release, self._failure = error.detail, 0, NO_FAILURE
            self._failures.record("deployment_postponed", key=error.detail, reason=error.detail)
            return False
        except DeploymentStopped:
            raise
        except Exception as error:  # noqa: BLE001 (a bug in one queue's deployment must not end the other queues)
            self._failure = NO_FAILURE
            reason = f"unexpected {type(error).__name__}; the worker's log has the details"
            self._record_failure(registration, reason, error)
            return False
        finally:
            self._is_deploying = False
            self._consumer.pool_changed()
        if deployed.problem and self._is_going_back:  # what it falls back to may be the release that was reverted
            deployed.release()
            self._failure = deployed.failure
            self._record_failure(registration, deployed.problem)
            return False
        self._problem, self._failure = deployed.problem, deployed.failure
        if deployed.problem:
            self._problem_release = registration.release.number
            self._consumer.counts.record_deployment(is_successful=False)
            self._failures.record(
                "older_deployment_goes_on", key=deployed.problem, reason=deployed.problem, commit=deployed.commit
            )
        else:
            self._failures.record_success()
        await self._use(registration, deployed)
        return not deployed.problem

    def release_replaced(self) -> None:
        """Release earlier deployments once no child runs their code."""
        if self.pool and self.pool.is_up_to_date:
            self._is_restarting &= not self.pool.is_ready
            while self._replaced:
                self._replaced.pop().release()

    def restart_children(self) -> None:
        """Replace the children, each between two tasks. Without children there is nothing to do."""
        self._restarts += 1
        if self._running and self._current and not self._is_going_back:
            self._is_restarting = True
            log.info("children_restarting")
            self._start_children(self._running, self._current)

    def take_turn(self) -> None:
        """Replace the children whose environment has changed, if they wait for that."""
        if self._running and self._current and self._replacement is Replacement.WAITING:
            self._set_replacement(Replacement.RUNNING)
            log.info("environment_changed", commit=self._current.commit)
            self._start_children(self._running, self._current)
            self._consumer.pool_changed()

    def interrupt(self) -> None:
        if self._commands:
            self._commands.stop()

    async def close(self) -> None:
        if self.pool:
            with contextlib.suppress(TimeoutError):
                await self.pool.stop()
        for deployed in (*self._replaced, self._current):
            if deployed:
                deployed.release()

    def _set_replacement(self, replacement: Replacement) -> None:
        if replacement is not self._replacement:
            self._replacement, self._replacement_since_s = replacement, clock.monotonic_s()

    def _find_kept_release(self, release: ReleaseInfo) -> int | None:
        """Return the release whose later ones were reverted or rolled back; None if that of the children was not."""
        started = self._started_release
        if 0 < release.number < started:
            return release.number
        return release.goes_back_to if 0 < release.goes_back_to < started < release.number else None

    def _record_failure(self, registration: RegisteredWorker, reason: str, unexpected: Exception | None = None) -> None:
        self._problem, self._problem_release = reason, registration.release.number
        self._consumer.counts.record_deployment(is_successful=False)
        self._failures.record("deployment_failed", key=reason, exc_info=unexpected, reason=reason)

    def _record_child_failure(self) -> None:
        self.child_failed.set()
        self._consumer.counts.record_child_restart()

    async def _fetch(self, registration: RegisteredWorker) -> Deployed:
        """Deploy on a thread. Raise DeploymentRefused, DeploymentFailed, DeploymentStopped, ResourcesExhausted."""
        spec = _deployment_spec(registration, self._settings)
        secrets = [*spec.credentials.secrets, *registration.secrets, *environment_secrets(os.environ)]
        self._commands = commands = CommandRunner(secrets=secrets)
        return await run_in_thread(lambda: deploy(spec, commands))

    async def _use(self, registration: RegisteredWorker, deployed: Deployed) -> None:
        """Start the children of a deployment. Keep the present ones if they were started in the same way."""
        before, self._current = self._current, deployed
        if before is not None and before is not deployed:
            self._replaced.append(before)
        if self._needs_other_pool(registration, before, deployed):
            self._spec = None
            await self._replace_pool(registration)
        self._running = registration
        if not deployed.problem:
            self._started_release, self._is_going_back = registration.release.number, False
        has_started = self._start_children(registration, deployed)
        if self.pool and not registration.release.keep_previous:
            self.pool.release_previous()
        if not has_started:
            return
        if before is not deployed and not deployed.problem:
            self._consumer.counts.record_deployment(is_successful=True)
        event = "deployed" if before is not deployed else "environment_changed"
        log.info(event, commit=deployed.commit, folder=str(deployed.code_dir))

    def _needs_other_pool(self, registration: RegisteredWorker, before: Deployed | None, deployed: Deployed) -> bool:
        running = self._running
        if before is None or running is None or running.is_one_shot != registration.is_one_shot:
            return True
        # Each task has a process of its own: without a second one in memory, all tasks have to end first.
        code = deployed.code_dir, registration.deployment.startup_cmd
        is_new_code = code != (before.code_dir, running.deployment.startup_cmd)
        return is_new_code and registration.is_one_shot and registration.deployment.replace_first

    def _start_children(self, registration: RegisteredWorker, deployed: Deployed) -> bool:
        """Start or replace the children. Return False if the present ones were started in the same way."""
        spec = _child_spec(
            registration, deployed, worker_id=self._worker_id, settings=self._settings, restarts=self._restarts
        )
        before, pool = self._spec, self.pool
        is_urgent = registration.is_urgent(self._replacements)
        if spec == before:
            self._replacements = registration.replacements or {}
            if self._replacement is Replacement.WAITING:
                self._set_replacement(Replacement.NONE)
            return False
        assert pool is not None  # noqa: S101 (its callers have made one)
        is_new_code = before is not None and (spec.code_dir, spec.startup_cmd) != (before.code_dir, before.startup_cmd)
        is_same = before is not None and before.starts_like(spec)
        is_at_once = is_urgent or registration.replacements is None or spec.generation != (before or spec).generation
        takes_turns = before is not None and not (is_new_code or is_same or is_at_once) and pool.is_ready
        if takes_turns and self._replacement is not Replacement.RUNNING:
            self._set_replacement(Replacement.WAITING)
            log.info("waits_for_turn")
            self._consumer.pool_changed()
            return False
        self._spec, self._replacements = spec, registration.replacements or {}
        if is_new_code or self._replacement is Replacement.WAITING:
            self._set_replacement(Replacement.NONE)
        # What was leaked, or what people asked for, is replaced without waiting for its successor. If nothing changed
        # but the release's number, children that are being started beside others go on with that.
        is_urgent |= registration.deployment.replace_first
        beside = (is_new_code or is_same or takes_turns) and not is_urgent
        pool.start(spec, beside=beside, keeps_previous=registration.release.keep_previous)
        if not (is_new_code or is_same):
            pool.release_previous()  # its environment is the one before
        return not is_same

    async def _replace_pool(self, registration: RegisteredWorker) -> None:
        """Create a pool for the queue's mode once the tasks of the other pool have ended."""
        if self.pool is not None:
            self._consumer.stop_dequeuing()
            await self._consumer.emptied.wait()
            await self.pool.stop()
        kind = OneShotPool if registration.is_one_shot else LongRunningPool
        pool: Pool = kind(self._consumer, self._settings, self._record_child_failure)
        self.pool = pool
        self._consumer.begin(pool)


def child_environment(
    *, virtual_environment: Path, own: Mapping[str, str], configured: Mapping[str, str]
) -> dict[str, str]:
    """Return a child's environment. Of the worker's own it has only PATH, HOME, TMPDIR and the locale.

    `own` are the RUNQY_ variables, `configured` those of the queue and its vaults.
    """
    env = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
    env |= {name: value for name, value in configured.items() if not variable_name_error(name) and "\0" not in value}
    env["PATH"] = f"{virtual_environment / 'bin'}{os.pathsep}{os.environ.get('PATH') or _PATH}"
    env["VIRTUAL_ENV"] = str(virtual_environment)
    return {**env, **own}


def _deployment_spec(registration: RegisteredWorker, settings: WorkerSettings) -> DeploymentSpec:
    """Raise DeploymentRefused."""
    info = registration.deployment
    return DeploymentSpec(
        queue=registration.queue.name,
        source=parse_source(git_url=info.git_url, branch=info.branch, code_path=info.code_path or ""),
        requirements_file=info.requirements_file or "requirements.txt",
        folder=settings.deployment_dir,
        local_dir=settings.local_dir,
        credentials=GitCredentials(token=registration.git_token or settings.git_token, ssh_key=settings.git_ssh_key),
        has_system_packages=settings.has_system_packages,
        max_deployment_bytes=settings.max_deployment_bytes,
        commit=registration.release.commit,
        requires_ref=registration.release.requires_ref,
        kept=KEPT_RELEASES,
        is_isolated=settings.isolates_children,
    )


def _child_spec(
    registration: RegisteredWorker, deployed: Deployed, *, worker_id: str, settings: WorkerSettings, restarts: int
) -> ChildSpec:
    # The code of a folder changes in place, so that a release may leave everything else as it was.
    release = registration.release.number if settings.local_dir else 0
    return ChildSpec(
        startup_cmd=registration.deployment.startup_cmd,
        code_dir=Path(deployed.code_dir),
        env=child_environment(
            virtual_environment=deployed.environment,
            own={
                "RUNQY_QUEUE": registration.queue.name,
                "RUNQY_WORKER_ID": worker_id,
                "RUNQY_COMMIT": deployed.commit,
                **({} if registration.is_one_shot else {"RUNQY_CHILD_PROTOCOL": CHILD_PROTOCOL}),
            },
            configured={**(registration.deployment.env_vars or {}), **(registration.vaults or {})},
        ),
        commit=deployed.commit,
        release=registration.release.number,
        generation=f"{release}/{restarts}",
        is_isolated=settings.isolates_children,
        hides_output=registration.deployment.hide_payloads,
        max_concurrency=registration.deployment.child_concurrency or 0,
        startup_timeout_s=registration.deployment.startup_timeout_secs,
        startup_silence_s=registration.deployment.startup_silence_secs,
    )
