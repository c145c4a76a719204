"""What the quick start promises: the examples deployed from this repository, used by the published SDK.

Needs the package index, as the quick start does.
"""

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from runqy_python import AuthenticationError, RunqyClient, TaskNotFoundError

from tests.stack.stack import Stack
from tests.support.waiting import wait_until
from tests.support.wheels import release_wheels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Return a stack that serves the examples."""
    stack = Stack(tmp_path_factory.mktemp("examples"), WEB_CONCURRENCY="2", PIP_FIND_LINKS=str(release_wheels()))
    stack.start()
    yield stack
    stack.end()


@pytest.fixture
def client(stack: Stack) -> RunqyClient:
    """Return the SDK's client."""
    return RunqyClient(f"http://127.0.0.1:{stack.port}", (stack.home / "api_key").read_text().strip())


def run(client: RunqyClient, queue: str, payload: dict[str, Any]) -> Any:
    """Enqueue a task and return it once it has ended."""
    task = client.enqueue(queue, payload)
    assert (task.queue, task.state) == (queue, "pending")
    wait_until(lambda: client.get_task(task.task_id).state in ("completed", "archived"), timeout_s=120)
    return client.get_task(task.task_id)


def test_every_example_is_ready(stack):
    for name in ("pipeline_high, pipeline_low", "sentiment", "thumbnail"):
        assert any(line.strip().startswith(name) and line.endswith("ready") for line in stack.output.splitlines())


def test_warm_process_scores_a_text(client):
    task = run(client, "sentiment", {"text": "What a lovely film!"})

    assert task.state == "completed"
    assert task.result["label"] == "positive"
    assert task.payload == {"text": "What a lovely film!"}


def test_fresh_process_makes_a_thumbnail(client):
    task = run(client, "thumbnail", {"size": 50})

    picture = Image.open(io.BytesIO(base64.b64decode(task.result["image"])))
    assert picture.size == (50, 33)


def test_a_retry_that_a_task_requests_succeeds(client, stack):
    task = run(client, "pipeline_low", {"document": "gettysburg", "refusals": 1})

    assert task.state == "completed"
    assert "dedicated" in task.result["keywords"]
    assert stack.read(task.task_id)["retried"] == 1


def test_exception_archives_a_task_with_its_traceback(client):
    task = run(client, "pipeline_high", {"document": "nowhere"})

    assert task.state == "archived"
    assert "LookupError: no document is called 'nowhere'" in task.error


def test_errors_are_the_ones_the_sdk_knows(client, stack):
    with pytest.raises(TaskNotFoundError):
        client.get_task("no-such-task")
    with pytest.raises(AuthenticationError):
        RunqyClient(f"http://127.0.0.1:{stack.port}", "wrong").enqueue("sentiment", {})
