"""Handlers of runqy-sdk under Go's worker, which takes each line with a `task_id` for the response.

Collected where RUNQY_TEST_GO_WORKER names the program; `.ci/release-check go` builds it.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from runqy.broker.broker import Broker
from tests.support import environment
from tests.workers.fake_server import API_KEY, FakeServer, registration_response
from tests.workers.processes import add_task, wait_for_state
from tests.workers.repositories import Repository
from tests.workers.test_own_sdk import FILES

PROGRAM = os.environ.get("RUNQY_TEST_GO_WORKER", "")
STREAM = """
import asyncio
from runqy_sdk import run, task

@task
{kind} words(payload, ctx):
    ctx.log.info("about %s", payload)
    for word in payload:
        yield word

run(concurrency=4)
"""
BATCH = """
from runqy_sdk import Context, Fail, batch, run

@batch(max_size=16, max_wait_ms=20)
{kind} join(payloads: list[list], contexts: list[Context]):
    for payload, ctx in zip(payloads, contexts):
        ctx.log.info("about %s", payload)
        for word in payload:
            ctx.chunk(word)
    return [None if payload else Fail("nothing to join") for payload in payloads]

run()
"""
CONFIGURATION = """
server: {{url: "{url}", api_key: "{key}"}}
worker: {{queue: mail, concurrency: 1}}
deployment: {{dir: "{folder}"}}
"""


class GoServer(FakeServer):
    def accepted(self, body: dict[str, Any]) -> dict[str, Any]:
        return self.response


@pytest.fixture
def server(repository: Repository) -> Iterator[GoServer]:
    response = registration_response(redis_port=environment.SERVER.port, git_url=repository.url)
    response["deployment"]["redis_storage"] = True
    server = GoServer(response)
    server.gives_users = False  # it has no id of its own
    yield server
    server.close()


@pytest.mark.parametrize("source", [STREAM, BATCH], ids=["stream", "batch"])
@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.usefixtures("redis")
def test_gos_worker_gets_one_response_for_each_task(
    server: GoServer, repository: Repository, single_broker: Broker, source: str, kind: str
) -> None:
    folder = repository.folder.parent
    repository.commit({**FILES, "main.py": source.format(kind=kind), "requirements.txt": ""})
    configuration, log = folder / "config.yml", folder / "go.log"
    configuration.write_text(CONFIGURATION.format(url=server.url, key=API_KEY, folder=folder / "deployment"))
    texts = [add_task(single_broker, ["a", str(number)]) for number in range(10)]
    values = add_task(single_broker, [1, {"b": 2}])

    with log.open("wb") as output:
        worker = subprocess.Popen([PROGRAM, "-config", configuration], stdout=output, stderr=output)
    try:
        results = [wait_for_state(single_broker, task, "completed").result or b"" for task in [*texts, values]]
    finally:
        worker.terminate()
        worker.wait(60)

    assert [json.loads(result) for result in results] == [*[f"a{number}" for number in range(10)], [1, {"b": 2}]]
    assert "about " in log.read_text()
