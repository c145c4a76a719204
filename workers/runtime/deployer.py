"""Deploys without holding up the event loop, and can be told to stop."""

from dataclasses import dataclass
from pathlib import Path

from runqy.git.commands import Commands
from runqy.git.credentials import GitCredentials
from runqy.git.sources import parse_source
from workers.deploy.deployment import Deployed, DeploymentOrder, deploy
from workers.runtime.child import ChildSpec
from workers.runtime.environment import child_environment
from workers.runtime.registration import Registration
from workers.runtime.settings import WorkerSettings
from workers.runtime.threads import in_thread


@dataclass(slots=True)
class Deployer:
    """The deployments of one queue, one at a time."""

    settings: WorkerSettings
    _commands: Commands | None = None

    async def deploy(self, registration: Registration) -> Deployed:
        """Deploy what a registration asks for.

        Raises DeploymentRefused, DeploymentFailed, DeploymentStopped.
        """
        order = self._order(registration)
        self._commands = commands = Commands(secrets=[*order.credentials.secrets, *registration.secrets])
        return await in_thread(lambda: deploy(order, commands))

    def stop(self) -> None:
        """End the deployment that is under way."""
        if self._commands:
            self._commands.stop()

    def _order(self, registration: Registration) -> DeploymentOrder:
        asked, settings = registration.deployment, self.settings
        return DeploymentOrder(
            queue=registration.queue.name,
            source=parse_source(git_url=asked.git_url, branch=asked.branch, code_path=asked.code_path or ""),
            requirements_file=asked.requirements_file or "requirements.txt",
            folder=settings.deployment_dir,
            credentials=GitCredentials(
                token=registration.git_token or settings.git_token, ssh_key=settings.git_ssh_key
            ),
            has_system_packages=settings.has_system_packages,
        )


def child_spec(registration: Registration, deployed: Deployed, *, worker_id: str) -> ChildSpec:
    """Return how children of a deployment are started."""
    return ChildSpec(
        startup_cmd=registration.deployment.startup_cmd,
        code_dir=Path(deployed.code_dir),
        env=child_environment(
            virtual_environment=deployed.environment,
            own={
                "RUNQY_QUEUE": registration.queue.name,
                "RUNQY_WORKER_ID": worker_id,
                "RUNQY_COMMIT": deployed.commit,
            },
            configured={**(registration.deployment.env_vars or {}), **(registration.vaults or {})},
        ),
        startup_timeout_s=registration.deployment.startup_timeout_secs,
    )
