"""Bodies that are meant to hurt, sent to a real server's every route that reads one: refused, in flat memory."""

import contextlib
import gzip
import json
import re
import tracemalloc
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator

from queues.definitions import FieldType, PayloadField
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.tasks.enqueue import NewTask
from runqy.errors import BatchTooLarge, PayloadInvalid
from tasks.api.enqueue_bodies import parse_add_batch
from tasks.payloads import add_defaults, check_integers
from tests.api.client import ApiClient, problem
from tests.api.wsgi import call
from tests.queues.samples import spec
from tests.support.database import database_variables
from tests.support.environment import ADMIN_KEY
from tests.support.processes import get_children
from tests.support.web import WebProcess

MIB = 1 << 20
LIMIT = 8 * MIB
MAX_GROWTH = 64 * MIB
"""What a process may have more after all of it than before: a body, twice, for each of its threads and some."""


def bodies() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Return each body and the headers that it is sent with."""
    bomb = gzip.compress(b"[" + b"0," * (64 * MIB) + b"0]")
    return {
        "huge": (b'{"queue":"simple","data":"' + b"x" * (4 * LIMIT), {}),
        "deep": (b'{"queue":"simple","data":' + b"[" * 500_000 + b"]" * 500_000 + b"}", {}),
        "deep objects": (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, {}),
        "cut": (b'{"queue":"simple","data":{"a":[1,2', {}),
        "not UTF-8": (b'{"queue":"simple","data":{"a":"\xff\xfe"}}', {}),
        "NaN": (b'{"queue":"simple","data":{"a":NaN}}', {}),
        "infinite": (b'{"queue":"simple","data":{"a":-Infinity}}', {}),
        "gzip bomb": (bomb, {}),
        "announced gzip bomb": (bomb, {"Content-Encoding": "gzip"}),
    }


def operations() -> Iterator[tuple[str, str]]:
    """Give each operation that reads a body."""
    schema: dict[str, Any] = SchemaGenerator().get_schema(public=True)  # type: ignore[no-untyped-call]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if "requestBody" in operation:
                yield method.upper(), re.sub(r"\{\w+\}", "simple", path)


@pytest.fixture
def web(configuration: None, tmp_path: Path) -> Iterator[WebProcess]:
    """Return a running server with a queue."""
    save_queue(spec=spec("simple"), source=QueueSource.API)
    started = WebProcess(tmp_path, RUNQY_MAX_BODY_SIZE=str(LIMIT), **database_variables())
    yield started
    started.kill()


def send(web: WebProcess, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    """Send a body, as far as the server takes it, and return the status and the code of the problem."""
    connection = HTTPConnection("127.0.0.1", web.port, timeout=60)
    sent = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json", "If-Match": "*", **headers}
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has responded, and reads no more
            connection.request(method, path, body, sent)
        response = connection.getresponse()
        return response.status, json.loads(response.read())["code"]
    finally:
        connection.close()


def resident(web: WebProcess) -> int:
    """Return how much memory the server's processes hold, in bytes."""
    pages = [Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in get_children(web.process.pid)]
    return sum(map(int, pages)) * 4096


@pytest.mark.timeout(400)
def test_hostile_bodies_cause_no_500_and_use_little_memory(web: WebProcess) -> None:
    routes, sent = list(operations()), bodies()
    for method, path in routes:
        send(web, method, path, b"{", {})
    before = resident(web)

    found = {
        (method, path, name): send(web, method, path, body, headers)
        for method, path in routes
        for name, (body, headers) in sent.items()
    }

    expected = {"huge": 413, "announced gzip bomb": 415}
    assert {
        request: response
        for request, response in found.items()
        # A push is read only if it is signed.
        if response[0] != expected.get(request[2], 401 if request[1].startswith("/hooks/") else 400)
    } == {}
    assert resident(web) - before < MAX_GROWTH
    assert web.send("/queue/add", b'{"queue":"simple","data":{}}')[0] == 200


@pytest.mark.usefixtures("configuration")
@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e308", "9" * 40, "9" * 5000])
def test_no_number_causes_a_500(number: str) -> None:
    """Send it as each member of each body, and within each member that is an object."""
    schema: dict[str, Any] = SchemaGenerator().get_schema(public=True)  # type: ignore[no-untyped-call]
    failed = []
    for method, path, names in numbered_operations(schema):
        bodies = [f'{{"{name}":{value}}}' for name in names for value in (number, f'{{"{name}":{number}}}')]
        every = ",".join(f'"{name}":{number}' for name in names)
        bodies.append(f"{{{every}}}")
        failed += [(method, path, body[:100]) for body in bodies if call(method, path, body.encode()).status >= 500]

    assert failed == []


def numbered_operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """Give each operation that reads JSON, with the names of the members of its body."""
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            body = content.get("schema", {})
            if "$ref" in body:
                body = schema["components"]["schemas"][body["$ref"].rpartition("/")[2]]
            if names := [*body.get("properties", {})]:
                yield method.upper(), re.sub(r"\{\w+\}", "1", path), names


@pytest.mark.usefixtures("configuration")
@pytest.mark.parametrize(
    ("path", "start", "end"),
    [
        ("/queue/add", b'{"queue":"q","data":', b"}"),
        ("/queue/add-batch", b'{"queue":"q","jobs":[', b"]}"),
        ("/api/vaults", b'{"name":', b"}"),
    ],
)
def test_a_body_nested_too_deeply_is_refused(each_plane: str, path: str, start: bytes, end: bytes) -> None:
    response = ApiClient().post(path, start + b"[" * 500 + b"]" * 500 + end)

    assert (response.status_code, problem(response)["code"]) == (400, "invalid_request")
    assert problem(response)["detail"] == "The body is nested deeper than 500 levels."


MANY = b",".join(b'"k%d":1' % number for number in range(20_000))


@pytest.mark.usefixtures("configuration")
@pytest.mark.parametrize(
    "path", ["/queue/add", "/queue/add-batch", "/api/vaults", "/api/cli/configs", "/worker/register"]
)
@pytest.mark.parametrize("beside", [b"", b'"data":{},', b'"jobs":[{}],'])
def test_a_body_with_too_many_members_is_refused(each_plane: str, path: str, beside: bytes) -> None:
    response = ApiClient().post(path, b'{"queue":"q",' + beside + MANY + b"}")

    assert (response.status_code, problem(response)["code"]) == (400, "invalid_request")
    assert "more than 10,000 members" in problem(response)["detail"]
    assert len(response.content) < 1000


@contextlib.contextmanager
def little_memory(size: int) -> Iterator[None]:
    """Check that a block takes no more memory than a few copies of what it reads, of `size` bytes."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * size  # other threads allocate too; decoded, it would be many times as much


@pytest.mark.parametrize("job", [b"{}", b"[]", b"1", b"null", b'"a"', b'"a,b"'])
def test_a_batch_of_very_many_jobs_is_refused_before_they_are_in_memory(job: bytes) -> None:
    body = b'{"queue":"simple","jobs":[' + b",".join([job] * 500_000) + b"]}"
    with pytest.raises(BatchTooLarge):
        parse_add_batch(body)  # the first one makes the type that is decoded

    with little_memory(len(body)), pytest.raises(BatchTooLarge, match="more than 10000 tasks"):
        parse_add_batch(body)


@pytest.mark.usefixtures("configuration")
def test_a_long_batch_of_few_jobs_is_read() -> None:
    wide = b"[" + b",".join([b"1"] * 300_000) + b"]"

    spec = parse_add_batch(
        b'{"queue":"simple","jobs":[{"data":{"list":' + wide + b"}}," + wide + b',{},"text",3,null,true]}'
    )

    assert [getattr(item, "payload", b"")[:10] for item in spec.items] == [
        b'{"list":[1',
        b"[1,1,1,1,1",
        *(b"{}", b'"text"', b"3", b"null", b"true"),
    ]


VERY_MANY = b",".join(b'"k%d":1' % number for number in range(300_000))


@pytest.mark.usefixtures("configuration")
def test_a_job_with_very_many_members_is_a_payload_that_is_not_decoded() -> None:
    job = b'{"data":1,' + VERY_MANY + b"}"
    body = b'{"queue":"simple","jobs":[' + job + b"]}"

    with little_memory(len(body)):
        (item,) = parse_add_batch(body).items

    assert isinstance(item, NewTask)
    assert item.payload == job


@pytest.mark.usefixtures("configuration")
def test_the_payload_of_a_job_may_have_very_many_members() -> None:
    (item,) = parse_add_batch(b'{"queue":"simple","jobs":[{"max_retry":3,"data":{' + VERY_MANY + b"}}]}").items

    assert isinstance(item, NewTask)
    assert (item.payload, item.max_retry) == (b"{" + VERY_MANY + b"}", 3)


def test_a_payload_with_very_many_members_is_validated_in_little_memory() -> None:
    schema = (
        PayloadField(name="prompt", type=(FieldType.STRING,), required=True),
        PayloadField(name="größe", type=(FieldType.INT,), default_json="7"),
    )
    given = b'{"pro\\u006dpt":"x",' + VERY_MANY + b"}"

    with little_memory(len(given)):
        completed = add_defaults(given, schema)
    with pytest.raises(PayloadInvalid, match="prompt: This field is required"):
        add_defaults(b"{" + VERY_MANY + b"}", schema)
    quoted = add_defaults(given, (PayloadField(name='a"b', type=(FieldType.INT,), default_json="7"),))

    assert completed == given[:-1] + ',"größe":7}'.encode()
    assert quoted == given[:-1] + b',"a\\"b":7}'


def test_the_digits_of_a_long_string_are_searched_in_little_memory() -> None:
    payload = b'{"file":"' + b"89504e47" * 100_000 + b"0" * 10_000 + b"a" * 1_000_000 + b'"}'

    with little_memory(len(payload)):
        check_integers(payload)


@pytest.mark.usefixtures("configuration")
@pytest.mark.parametrize("timeout", ["9" * 1_000_001 + "h", "9" * 400_000, "1h" * 100])
def test_a_very_long_duration_is_refused_by_its_length(each_plane: str, timeout: str) -> None:
    response = ApiClient().post("/queue/add", {"queue": "simple", "data": {}, "timeout": timeout})

    assert (response.status_code, problem(response)["code"]) == (400, "invalid_request")
    assert "too long for a duration" in problem(response)["errors"][0]
    assert len(response.content) < 1000


@pytest.mark.usefixtures("configuration")
def test_a_very_long_wait_is_refused(each_plane: str) -> None:
    response = ApiClient().get("/queue/unknown?wait=" + "9" * 400)

    assert (response.status_code, problem(response)["code"]) == (400, "invalid_request")


@pytest.mark.usefixtures("configuration")
def test_a_payload_may_have_very_many_members(each_plane: str) -> None:
    response = ApiClient().post("/queue/add", b'{"queue":"q","data":{' + MANY + b"}}")

    assert problem(response)["code"] == "queue_not_found"
