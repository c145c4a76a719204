"""The environment of a test process, set before Django reads its settings: a home, keys, the address of Redis.

pyproject.toml loads this with `-p`, so that it runs before pytest-django.
"""

import atexit
import base64
import os
import shutil
import tempfile

from tests.support.run_pytest import replace_plain_pytest
from tests.support.servers import ValkeyServer

replace_plain_pytest()

for name in [name for name in os.environ if name.startswith(("RUNQY_", "REDIS_", "DATABASE_", "QUEUE_WORKERS_"))]:
    if not name.startswith("RUNQY_TEST_"):
        del os.environ[name]  # settings of a developer's own instance

HOME = tempfile.mkdtemp(prefix="runqy-test-home-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
SERVER = ValkeyServer("--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0")
"""The tests' own server, which the fixture `redis_server` starts.

Its file keeps everything that was written, and tests/support/secret_leaks.py searches it.
"""
CLIENT = SERVER.client()
"""A client of the server for all tests, since creating one and connecting takes as long as many tests."""

ADMIN_KEY, WORKER_KEY, CLIENT_KEY = (
    f"{role}-key-of-tests-that-cannot-be-guessed" for role in ("admin", "worker", "client")
)

os.environ.update(
    RUNQY_HOME=HOME,
    REDIS_URL=SERVER.url,
    RUNQY_SECRET_KEY="secret-key-of-tests-that-is-long-enough-for-every-check-0123456789",
    RUNQY_API_KEY=ADMIN_KEY,
    RUNQY_WORKER_API_KEY=WORKER_KEY,
    RUNQY_CLIENT_API_KEY=CLIENT_KEY,
    RUNQY_VAULT_MASTER_KEY=base64.b64encode(bytes(range(32))).decode(),
)
if url := os.environ.get("RUNQY_TEST_DATABASE_URL"):
    os.environ["DATABASE_URL"] = url
