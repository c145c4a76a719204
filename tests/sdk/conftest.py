"""Programs that use the SDK, started as a worker starts them, and clients of the server's own application."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queues.definitions import FieldType, LimitOverrides, PayloadField
from runqy_sdk.client import AsyncClient, Client
from tests.queues.samples import spec
from tests.queues.stored import store_queues
from tests.support.environment import CLIENT_KEY
from tests.support.waiting import PATIENCE_S

SDK = Path(__file__).parents[2] / "sdk"
PYTHON = os.environ.get("RUNQY_TEST_SDK_PYTHON", sys.executable)
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SDK), "PYTHONDONTWRITEBYTECODE": "1"}

Message = dict[str, Any]


class Program:
    """A child process and its protocol."""

    def __init__(self, file: Path, version: int) -> None:
        self._file = file
        with file.with_suffix(".stderr").open("wb") as printed:
            self.process = subprocess.Popen(
                [PYTHON, file.name],
                cwd=file.parent,
                env=ENVIRONMENT | ({"RUNQY_CHILD_PROTOCOL": str(version)} if version > 1 else {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                text=True,
            )

    def send(self, task_id: str, payload: Any = None, **members: Any) -> None:
        self.write(
            {"task_id": task_id, "payload": payload, "retry_count": 0, "max_retry": 3, "queue": "mail"} | members
        )

    def write(self, message: Message) -> None:
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def read(self) -> Message:
        line = self.read_line()
        assert line, self.printed
        return json.loads(line)

    def read_line(self) -> str:
        return self.process.stdout.readline()

    def read_responses(self, number: int) -> dict[str, Message]:
        """Read the responses of this many tasks, in whichever order, without what else the program sends."""
        responses: dict[str, Message] = {}
        while len(responses) < number:
            message = self.read()
            if "result" in message:
                assert message["task_id"] not in responses
                responses[message["task_id"]] = message
        return responses

    def run(self, payload: Any = None, **members: Any) -> Message:
        """Send a task and return the response."""
        self.send("t1", payload, **members)
        return self.read()

    def end(self) -> int:
        self.process.stdin.close()
        return self.process.wait(60)

    @property
    def printed(self) -> str:
        return self._file.with_suffix(".stderr").read_text()


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program with this source, and wait until it is ready."""
    programs: list[Program] = []

    def start(source: str, *, is_ready: bool = True, version: int = 1) -> Program:
        file = tmp_path / f"main{len(programs)}.py"
        file.write_text(source)
        programs.append(Program(file, version))
        if is_ready:
            assert programs[-1].read()["status"] == "ready"
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.process.wait()
        program.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            program.process.stdin.close()


class SyncMethods:
    """The methods of AsyncClient, each run to its end on one event loop."""

    def __init__(self, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._make(options))

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            found = getattr(self._client, name)(*args, **options)
            return self._runner.run(_collect(found) if hasattr(found, "__anext__") else found)

        return call

    async def _make(self, options: dict[str, Any]) -> AsyncClient:
        return AsyncClient(**options)


async def _collect(values: AsyncIterator[Any]) -> list[Any]:
    return [value async for value in values]


@pytest.fixture(params=[Client, SyncMethods])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Return a function that makes a client, of either kind."""
    made: list[Any] = []

    def make(url: str, **options: Any) -> Any:
        made.append(request.param(url=url, api_key=CLIENT_KEY, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(configuration: None, served_data_plane: str, make: Callable[..., Any]) -> Any:
    fields = (PayloadField(name="n", type=(FieldType.INT,)),)
    store_queues(
        spec("simple"), spec("numbers", input=fields), spec("small", limits=LimitOverrides(max_waiting_tasks=2))
    )
    return make(served_data_plane, retry_for=PATIENCE_S)
