"""A key that one process revokes ends in the others."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection

from runqy.accounts.operations import create_api_key, revoke_api_key

pytestmark = pytest.mark.usefixtures("configuration")

ROOT = Path(__file__).parents[2]
OTHER = """
import sys, time
import django
django.setup()
from django.db import connection
connection.settings_dict["NAME"] = sys.argv[1]
from runqy.configuration.snapshot import start_polling
from tests.accounts.authenticating import authenticate
start_polling()
key = sys.stdin.readline().strip()
assert authenticate(key)
queries = []
connection.execute_wrappers.append(lambda execute, sql, *rest: queries.append(sql) or execute(sql, *rest))
print("accepted", flush=True)
longest, last = 0.0, time.time()
while authenticate(key):
    time.sleep(0.01)
    longest, last = max(longest, time.time() - last), time.time()
print(time.time(), max(longest, time.time() - last), len(queries), flush=True)
"""


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """Start another server process, which authenticates a given key again and again."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(connection.settings_dict["NAME"])],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "runqy.settings"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_a_revocation_reaches_another_process_within_two_seconds_without_a_query_of_its_requests(
    other: subprocess.Popen[str],
) -> None:
    assert other.stdin
    assert other.stdout
    created = create_api_key(name="shop", role="client")
    other.stdin.write(f"{created.plain}\n")
    other.stdin.flush()
    assert other.stdout.readline() == "accepted\n"

    revoke_api_key(key_id=created.row.pk)
    revoked_at = time.time()

    refused_at, longest, queries = map(float, other.stdout.readline().split())
    assert queries == 0
    assert refused_at - revoked_at <= 2.0 + longest  # how long a busy machine let it wait between two questions
