"""The code of a task that returns the digest of a secret, and its result."""

import hashlib
from dataclasses import dataclass

from tests.workers.processes import SDK_FILES

FILES = {
    **SDK_FILES,
    "main.py": """\
import hashlib, os
from runqy_python import run, task

@task
def digest(payload):
    return {"digest": hashlib.sha256(os.environ["TOKEN"].encode()).hexdigest(), "pid": os.getpid()}

run()
""",
}
"""What is in its repository."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretDigest:
    """The result of a task."""

    digest: str
    pid: int
    """Of the process that ran it."""

    def has(self, secret: str) -> bool:
        """Return whether a secret is the one."""
        return self.digest == hashlib.sha256(secret.encode()).hexdigest()
