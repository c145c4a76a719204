"""Owns a queue's deployment on this machine and the pool of children that runs it."""

import asyncio
import contextlib

import structlog

from runqy.broker.worker_records import WorkerState
from runqy.errors import DeploymentFailed, DeploymentRefused
from workers.deploy.deployment import Deployed
from workers.runtime.child import ChildSpec
from workers.runtime.consumer import Consumer
from workers.runtime.deployer import Deployer, child_spec
from workers.runtime.long_running import LongRunningPool
from workers.runtime.one_shot import OneShotPool
from workers.runtime.pool import Pool, PoolSettings
from workers.runtime.registration import Registration
from workers.runtime.settings import WorkerSettings

log = structlog.get_logger()


class Workshop:
    """What runs tasks: code, environment, children."""

    def __init__(self, settings: WorkerSettings, consumer: Consumer, *, worker_id: str) -> None:
        self.pool: Pool | None = None
        self.stumbled = asyncio.Event()
        """Set when a child failed: there may be newer code that does better."""
        self._problem = ""
        """Why the newest code is not the one that runs."""
        self._is_deploying = False
        self._settings = settings
        self._consumer = consumer
        self._worker_id = worker_id
        self._deployer = Deployer(settings)
        self._current: Deployed | None = None
        self._running: Registration | None = None
        """What the children were started for."""
        self._spec: ChildSpec | None = None
        """How they were started."""
        self._replaced: list[Deployed] = []

    @property
    def state(self) -> tuple[WorkerState, str]:
        """Return what the worker is doing, and why if that is not its work."""
        if self.pool and self.pool.is_ready:
            return WorkerState.READY, self._problem
        if problem := (self.pool.problem if self.pool else "") or self._problem:
            return WorkerState.START_FAILED, problem
        return (WorkerState.DEPLOYING if self._is_deploying else WorkerState.STARTING), ""

    @property
    def is_failing(self) -> bool:
        """Tell whether a child failed since the last deployment, or none runs."""
        return self.stumbled.is_set() or bool(self.pool and self.pool.problem)

    @property
    def commit(self) -> str:
        """Return the commit that runs."""
        return self._current.commit if self._current else ""

    async def bring_up(self, registration: Registration) -> bool:
        """Deploy what a registration asks for and run it; returns whether it is the newest that runs now.

        The branch is asked for newer code where a rollout wants it, or where the code that is here fails.
        Raises DeploymentStopped.
        """
        is_failing = self.is_failing
        self.stumbled.clear()
        is_here = self._running and self._running.deploys_like(registration) and not self._problem
        if self._current and is_here and not is_failing:
            await self._use(registration, self._current)
            return True
        self._is_deploying = True
        try:
            deployed = await self._deployer.deploy(registration)
        except (DeploymentFailed, DeploymentRefused) as error:
            self._problem = error.detail
            log.warning("deployment_failed", reason=error.detail)
            return False
        finally:
            self._is_deploying = False
            self._consumer.pool_changed()
        self._problem = deployed.problem
        if deployed.problem:
            log.warning("older_deployment_goes_on", reason=deployed.problem, commit=deployed.commit)
        await self._use(registration, deployed)
        return not deployed.problem

    def release_replaced(self) -> None:
        """Let go of earlier deployments once no child runs them."""
        if self.pool and self.pool.is_renewed:
            while self._replaced:
                self._replaced.pop().release()

    def interrupt(self) -> None:
        """End a deployment that is under way."""
        self._deployer.stop()

    async def close(self) -> None:
        """End all children and let go of the deployment."""
        if self.pool:
            with contextlib.suppress(TimeoutError):
                await self.pool.stop()
        for deployed in (*self._replaced, self._current):
            if deployed:
                deployed.release()

    async def _use(self, registration: Registration, deployed: Deployed) -> None:
        """Start children of a deployment, or let those go on that were started in just the same way."""
        before, self._current = self._current, deployed
        if before is not None and before is not deployed:
            self._replaced.append(before)
        if self.pool is None or self._running is None or self._running.is_one_shot != registration.is_one_shot:
            self._spec = None
            await self._replace_pool(registration)
        self._running = registration
        spec = child_spec(registration, deployed, worker_id=self._worker_id)
        if spec == self._spec:
            return
        self._spec = spec
        assert self.pool is not None  # noqa: S101 (made above)
        self.pool.start(spec)
        event = "environment_changed" if before is deployed else "deployed"
        log.info(event, commit=deployed.commit, folder=str(deployed.code_dir))

    async def _replace_pool(self, registration: Registration) -> None:
        """Make the pool for the queue's mode, after the tasks in another one have ended."""
        if self.pool is not None:
            self._consumer.stop_taking()
            await self._consumer.emptied.wait()
            await self.pool.stop()
        settings = PoolSettings(
            concurrency=self._settings.concurrency,
            processes=self._settings.processes,
            recovery=self._settings.recovery,
            on_failure=self.stumbled.set,
        )
        pool: Pool = (OneShotPool if registration.is_one_shot else LongRunningPool)(self._consumer, settings)
        self.pool = pool
        self._consumer.begin(pool)
