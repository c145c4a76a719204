"""A queue's deployment on this machine: its code, its virtual environment, and its pool of children."""

import asyncio
import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import structlog

from runqy import clock
from runqy.broker.workers.records import WorkerState
from runqy.concurrency.threads import run_in_thread
from runqy.errors import DeploymentFailed, DeploymentRefused, DeploymentStopped
from runqy.formats.durations import humanize
from runqy.git.commands import CommandRunner
from runqy.git.credentials import GitCredentials
from runqy.git.sources import parse_source
from runqy.telemetry.failure_log import FailureLog
from vaults.entry_rules import variable_name_error
from workers.deploy.deployment import Deployed, DeploymentSpec, deploy
from workers.runtime.child import ChildSpec
from workers.runtime.consumer import Consumer
from workers.runtime.long_running import LongRunningPool
from workers.runtime.one_shot import OneShotPool
from workers.runtime.pool import Pool
from workers.runtime.redaction import environment_secrets
from workers.runtime.registration import RegisteredWorker
from workers.runtime.settings import WorkerSettings

_INHERITED = re.compile(r"HOME|LANG|LANGUAGE|LC_[A-Z]+|TZ|TMPDIR")
CHILD_PROTOCOL = "2"
"""The version of the protocol up to which long_running children may announce what they can do."""
_PATH = "/usr/local/bin:/usr/bin:/bin"

log = structlog.get_logger()


class DeploymentManager:
    """Deploys what registrations request, and starts and replaces the children."""

    def __init__(self, settings: WorkerSettings, consumer: Consumer, *, worker_id: str) -> None:
        self.pool: Pool | None = None
        # Set when a child failed, because newer code may fix it.
        self.child_failed = asyncio.Event()
        # Why the newest code does not run.
        self._problem = ""
        self._failures = FailureLog("deployment_succeeded")
        self._is_deploying = False
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
        # Earlier deployments, whose code children may still run.
        self._replaced: list[Deployed] = []

    @property
    def state(self) -> tuple[WorkerState, str]:
        """Return the worker's state, and the reason if it is not ready or runs older code."""
        if self.pool and self.pool.is_ready:
            return WorkerState.READY, self._problem
        if problem := (self.pool.problem if self.pool else "") or self._problem:
            return WorkerState.START_FAILED, problem
        if self._is_deploying:
            return WorkerState.DEPLOYING, ""
        since_s = self.pool.loading_since_s if self.pool else None
        # Whole minutes, because each change of the reason is sent as a heartbeat.
        minutes = int(clock.monotonic_s() - since_s) // 60 if since_s is not None else 0
        return WorkerState.STARTING, f"loading for {humanize(60 * minutes)}" if minutes else ""

    @property
    def is_failing(self) -> bool:
        """Return whether a child failed since the last deployment, or none runs."""
        return self.child_failed.is_set() or bool(self.pool and self.pool.problem)

    @property
    def commit(self) -> str:
        return self._current.commit if self._current else ""

    async def deploy(self, registration: RegisteredWorker) -> bool:
        """Deploy what a registration requests and run it. Return whether the newest code runs now.

        The branch is checked for newer code if a redeploy requests it or the deployed code fails. Raise
        DeploymentStopped.
        """
        is_failing = self.is_failing
        self.child_failed.clear()
        is_deployed = self._running and self._running.deploys_like(registration) and not self._problem
        if self._current and is_deployed and not is_failing:
            await self._use(registration, self._current)
            return True
        self._is_deploying = True
        try:
            deployed = await self._fetch(registration)
        except (DeploymentFailed, DeploymentRefused) as error:
            self._record_failure(error.detail)
            return False
        except DeploymentStopped:
            raise
        except Exception as error:  # noqa: BLE001 (a bug in one queue's deployment must not end the other queues)
            self._record_failure(f"unexpected {type(error).__name__}; the worker's log has the details", error)
            return False
        finally:
            self._is_deploying = False
            self._consumer.pool_changed()
        self._problem = deployed.problem
        if deployed.problem:
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
            while self._replaced:
                self._replaced.pop().release()

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

    def _record_failure(self, reason: str, unexpected: Exception | None = None) -> None:
        self._problem = reason
        self._consumer.counts.record_deployment(is_successful=False)
        self._failures.record("deployment_failed", key=reason, exc_info=unexpected, reason=reason)

    def _record_child_failure(self) -> None:
        self.child_failed.set()
        self._consumer.counts.record_child_restart()

    async def _fetch(self, registration: RegisteredWorker) -> Deployed:
        """Deploy on a thread. Raise DeploymentRefused, DeploymentFailed, DeploymentStopped."""
        spec = _deployment_spec(registration, self._settings)
        secrets = [*spec.credentials.secrets, *registration.secrets, *environment_secrets(os.environ)]
        self._commands = commands = CommandRunner(secrets=secrets)
        return await run_in_thread(lambda: deploy(spec, commands))

    async def _use(self, registration: RegisteredWorker, deployed: Deployed) -> None:
        """Start the children of a deployment. Keep the present ones if they were started in the same way."""
        before, self._current = self._current, deployed
        if before is not None and before is not deployed:
            self._replaced.append(before)
        if self.pool is None or self._running is None or self._running.is_one_shot != registration.is_one_shot:
            self._spec = None
            await self._replace_pool(registration)
        self._running = registration
        spec = _child_spec(registration, deployed, worker_id=self._worker_id, settings=self._settings)
        if spec == self._spec:
            return
        self._spec = spec
        assert self.pool is not None  # noqa: S101 (made above)
        self.pool.start(spec)
        if before is not deployed and not deployed.problem:
            self._consumer.counts.record_deployment(is_successful=True)
        event = "environment_changed" if before is deployed else "deployed"
        log.info(event, commit=deployed.commit, folder=str(deployed.code_dir))

    async def _replace_pool(self, registration: RegisteredWorker) -> None:
        """Create the pool for the queue's mode once the tasks of the other pool have ended."""
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
        credentials=GitCredentials(token=registration.git_token or settings.git_token, ssh_key=settings.git_ssh_key),
        has_system_packages=settings.has_system_packages,
        max_checkout_bytes=settings.max_checkout_bytes,
        max_deployment_bytes=settings.max_deployment_bytes,
        is_isolated=settings.isolates_children,
    )


def _child_spec(
    registration: RegisteredWorker, deployed: Deployed, *, worker_id: str, settings: WorkerSettings
) -> ChildSpec:
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
        is_isolated=settings.isolates_children,
        hides_output=registration.deployment.hide_payloads,
        termination_grace_s=settings.termination_grace_s,
        max_concurrency=registration.deployment.child_concurrency or 0,
        startup_timeout_s=registration.deployment.startup_timeout_secs,
        startup_silence_s=registration.deployment.startup_silence_secs,
    )
