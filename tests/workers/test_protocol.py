"""The lines between worker and child."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.tasks.record import TaskProgress
from runqy.errors import PayloadUnusable
from workers.runtime.pool import to_run_result
from workers.runtime.protocol import (
    BatchLimits,
    BatchResponse,
    ChildResponse,
    ChunkLine,
    InvalidResponse,
    LogLine,
    ProgressReport,
    Ready,
    begins_as_response,
    decode_response,
    read_long_chunk,
    read_ready,
)
from workers.runtime.task_lines import add_deadline, encode_task

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def message(payload: bytes, **changes: object) -> TaskMessage:
    return TaskMessage(id="t1", type="mail", queue="mail", payload=payload, retry=3, retried=1, **changes)


def encode(task: TaskMessage) -> bytes:
    return encode_task(task, attempt=2)


@given(VALUES, st.sampled_from([None, 1]), st.booleans())
def test_any_json_payload_arrives_on_one_line(value: object, indent: int | None, is_ascii: bool) -> None:
    payload = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    try:
        payload.decode()
    except UnicodeDecodeError:
        return

    line = encode(message(payload))

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line)["payload"] == value


def test_a_line_has_all_fields_of_the_task() -> None:
    assert json.loads(add_deadline(encode(message(b"1")), 1700000000.5)) == {
        "task_id": "t1",
        "type": "mail",
        "payload": 1,
        "retry_count": 1,
        "max_retry": 3,
        "queue": "mail",
        "attempt": 2,
        "deadline": 1700000000.5,
    }


def test_a_line_names_the_request_and_the_trace_that_a_task_belongs_to() -> None:
    line = json.loads(encode(message(b"1", headers={"x-request-id": "r1", "traceparent": "00-a", "other": "x"})))

    assert (line["request_id"], line["traceparent"]) == ("r1", "00-a")
    assert "other" not in line


def test_the_bytes_of_a_payload_are_kept() -> None:
    assert b'"payload":{"b": 1.50, "a":9007199254740993}' in encode(message(b'{"b": 1.50, "a":9007199254740993}'))


def test_no_payload_is_null() -> None:
    assert json.loads(encode(message(b"")))["payload"] is None


@pytest.mark.parametrize("payload", [b"{", b"NaN", b"\xff", b'"\xff"', b"1 2", b"[" * 100_000])
def test_a_payload_that_is_no_json_is_refused(payload: bytes) -> None:
    with pytest.raises(PayloadUnusable):
        encode(message(payload))


@given(VALUES)
def test_any_result_is_kept_as_the_child_spelled_it(value: object) -> None:
    result = json.dumps(value)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return

    response = decode_response(b'{"task_id": "t1", "result": %b, "error": null, "retry": false}' % result.encode())

    assert isinstance(response, ChildResponse)
    assert bytes(response.result) == result.encode()


@pytest.mark.parametrize(("error", "text"), [("null", ""), ('""', ""), ('"bad"', "bad"), ('{"a":1}', '{"a":1}')])
def test_an_error_is_text(error: str, text: str) -> None:
    response = decode_response(b'{"task_id":"t1","error":%b}' % error.encode())

    assert isinstance(response, ChildResponse)
    assert response.error_text == text


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ('"shop.errors.Declined"', "shop.errors.Declined"),
        ('"m.K\u00f6nig"', "m.König"),
        (f'"{"m" * 201}"', ""),
        ('"two\\nlines"', ""),
        ("null", ""),
        ('["builtins.ValueError"]', ""),
    ],
)
def test_a_class_of_an_error_that_cannot_be_kept_is_ignored(sent: str, kept: str) -> None:
    members = f'"error":"no","error_class":{sent}'

    response = decode_response(f'{{"task_id":"t1",{members}}}'.encode())
    batch = decode_response(f'{{"batch":[{{"task_id":"t1"}}],{members}}}'.encode(), Ready(batch=BatchLimits(1)))

    assert isinstance(response, ChildResponse)
    assert isinstance(batch, BatchResponse)
    assert batch.failure is not None
    assert response.exception_path == batch.failure.exception_path == kept


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'{"task_id":"t1","error":[%b1]}', id="an error"),
        pytest.param(b'{"task_id":"t1","error":"no","retry_delay_s":[%b1]}', id="a delay"),
        pytest.param(b'{"task_id":"t1","error":"no","error_class":[%b1]}', id="a class"),
        pytest.param(b'{"task_id":"t1","log":[%b1]}', id="a log line"),
        pytest.param(b'{"task_id":"t1","progress":[%b1]}', id="progress"),
        pytest.param(b'{"status":"ready","accepts":[%b1],"concurrency":[%b1]}', id="a ready line"),
        pytest.param(b'{"batch":[%b1]}', id="a batch"),
        pytest.param(b'{"batch":[{"task_id":"t1"}],"error":[%b1]}', id="the error of a batch"),
        pytest.param(b'{"task_id":"t1","other":[%b1],"result":NaN}', id="no JSON"),
        pytest.param(b'{"task_id":"t1","other":[%b1],"result":"\xff"}', id="no UTF-8"),
    ],
)
@pytest.mark.parametrize("value", [b"{},", b'[[["task_id"]]],', b'{"task_id":"a"},'])
def test_a_long_line_takes_little_memory_whatever_it_says(line: bytes, value: bytes) -> None:
    ready = Ready(is_concurrent=True, streams=True, batch=BatchLimits(16))
    line = line.replace(b"%b", value * ((4 << 20) // len(value) // line.count(b"%b")))
    tracemalloc.start()

    response = decode_response(line, ready)
    if isinstance(response, ChildResponse) and response.task_id:
        to_run_result(response)

    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 4 * len(line)


def test_the_end_of_a_long_error_is_kept() -> None:
    error = "x" * (1 << 20) + "\nValueError: \u00e9"

    for sent in (error, [error]):
        response = decode_response(json.dumps({"task_id": "t1", "error": sent}).encode())

        assert isinstance(response, ChildResponse)
        assert "\u00e9" in response.error_text or "\\u00e9" in response.error_text
        assert len(response.error_text) < (300 << 10)


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (b"NaN", "result: NaN is not JSON"),
        (b'{"a":1,"scores":[1,2,{"x y":3},-Infinity,NaN]}', "result.scores[3]: -Infinity is not JSON"),
        (b'{"a":[{"x y":NaN}]}', "result.a[0]['x y']: NaN is not JSON"),
        (b'{"a":["\\ud800"]}', "result.a[0]: the text is not UTF-8"),
        (b'{"a":["\xff"]}', "result.a[0]: the text is not UTF-8"),
        (b'{"a":{"\\ud800":1}}', "result.a, a name in it: the text is not UTF-8"),
        (b'{"a":{"\xff":1}}', "result.a, a name in it: the text is not UTF-8"),
    ],
)
def test_an_invalid_result_names_its_path(result: bytes, reason: str) -> None:
    response = decode_response(b'{"task_id":"t1","result":%b}' % result)

    assert isinstance(response, InvalidResponse)
    assert response.task_id == "t1"
    assert response.reason.startswith(f"{reason}; ")


@pytest.mark.parametrize(
    "line",
    [
        b'{"task_id":"t1","result":<Model>}',
        b'{"task_id": "t1", "result": {"a": 1}',
        b' { "task_id" :\t"t\\u0031"',
        b'{"task_id":"t1","error":"\xff","result":}',
        b'{"task_id":"t1","result":1}{"task_id":"t1","result":1}',
        b'{"task_id":"t1","other":' + b"[" * 100_000,
    ],
)
def test_a_truncated_response_is_identified_by_its_task(line: bytes) -> None:
    response = decode_response(line)

    assert isinstance(response, InvalidResponse)
    assert response.task_id == "t1"
    assert response.reason.startswith("the response is not valid JSON: ")


@pytest.mark.parametrize(
    "line",
    [
        b'{"task_id":"t1',
        b'{"task_id":1,',
        b'{"task_id":"\xff","result":}',
        b'{"level":"info","task_id":"t1",',
        b'started {"task_id":"t1","result":}',
    ],
)
def test_an_invalid_line_that_does_not_start_with_a_task_id_is_not_a_response(line: bytes) -> None:
    assert decode_response(line) is None


@pytest.mark.parametrize(
    ("start", "is_response"),
    [
        (b'{"task_id":"t1","result":"xx', True),
        (b' { "result" : [1, 2', True),
        (b'{"level":"info","task_id":"t1', False),
        (b"xxxx", False),
        (b'"result": 1', False),
    ],
)
def test_a_line_that_is_too_long_is_a_response_if_it_begins_like_one(start: bytes, is_response: bool) -> None:
    assert begins_as_response(start) is is_response


def test_an_invalid_result_that_python_cannot_read_has_no_path() -> None:
    line = b'{"task_id":"t1","result":["\xff",%b]}' % (b"1" * 5000)

    assert decode_response(line) == InvalidResponse("t1", "the result is not UTF-8")


@given(st.binary(max_size=200))
def test_noise_is_not_a_response(noise: bytes) -> None:
    assert decode_response(noise) is None


@pytest.mark.parametrize("line", [b"{}", b'{"level":"info"}', b'{"task_id":1}', b'{"status":1}', b"[1]", b"1", b""])
def test_other_json_is_not_a_response(line: bytes) -> None:
    assert decode_response(line) is None


@pytest.mark.parametrize(
    ("line", "task_id", "progress"),
    [
        (b'{"task_id":"t1","progress":{"current":3,"total":10,"message":"m"}}', "t1", TaskProgress(3, 10, "m")),
        (b'{"task_id":"t1","progress":{"current":0.5}}', "t1", TaskProgress(0.5)),
        (b'{"progress":{"current":3,"total":null,"unknown":1}}', None, TaskProgress(3)),
    ],
)
def test_a_line_with_progress_alone_is_a_report(line: bytes, task_id: str | None, progress: TaskProgress) -> None:
    assert decode_response(line) == ProgressReport(task_id, progress)


@pytest.mark.parametrize(
    "progress",
    [
        b"3",
        b"null",
        b"{}",
        b'{"current":-1}',
        b'{"current":true}',
        b'{"current":"3"}',
        b'{"current":NaN}',
        b'{"current":1e400}',
        b'{"current":1,"message":7}',
    ],
)
def test_invalid_progress_does_not_end_the_task(progress: bytes) -> None:
    assert decode_response(b'{"task_id":"t1","progress":%b}' % progress) is None


@pytest.mark.parametrize("member", [b'"result":null', b'"error":null', b'"retry":false'])
def test_a_response_may_have_a_member_called_progress(member: bytes) -> None:
    response = decode_response(b'{"task_id":"t1","progress":{"current":3},%b}' % member)

    assert isinstance(response, ChildResponse)


@pytest.mark.parametrize("start", [b"", b'"task_id":"t1",'])
def test_a_member_of_a_report_whose_name_is_not_utf8_is_ignored(start: bytes) -> None:
    report = decode_response(b'{%b"progress":{"current":3},"\xff":1}' % start)

    assert isinstance(report, ProgressReport)
    assert report.progress.current == 3


STREAMS = Ready(streams=True)


@pytest.mark.parametrize("value", [b'"a\\u00e9"', '"é"'.encode(), b"null", b"7", b'{"a":[1, 2]}', b'""'])
def test_a_line_with_a_chunk_alone_is_a_part_of_a_stream(value: bytes) -> None:
    assert decode_response(b'{"task_id":"t1", "chunk": %b }' % value, STREAMS) == ChunkLine("t1", value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"task_id":"t1","chunk":NaN}', "chunk: NaN is not JSON; return null or a text instead"),
        (b'{"task_id":"t1","chunk":"\xff"}', "chunk: the text is not UTF-8; encode it, for instance in base64"),
        (b'{"task_id":"t1","chunk":"a', "the response is not valid JSON: "),
    ],
)
def test_a_chunk_that_cannot_be_stored_is_no_response(line: bytes, reason: str) -> None:
    chunk = decode_response(line, STREAMS)

    assert isinstance(chunk, ChunkLine)
    assert (chunk.task_id, chunk.value) == ("t1", None)
    assert chunk.problem.startswith(f"result_invalid: {reason}")


@pytest.mark.parametrize(
    ("log", "text"),
    [(rb"caf\udce9.txt", "caf?.txt"), (b"caf\xe9.txt", "caf�.txt"), (rb"a \"b\" \\", None)],
)
def test_a_log_line_with_half_a_character_fails_no_task(log: bytes, text: str | None) -> None:
    line = decode_response(b'{"task_id": "t1", "log": "%b"}' % log, STREAMS)

    assert line == LogLine("t1", 'a "b" \\' if text is None else text)


@pytest.mark.parametrize(
    "line",
    [
        b'{"batch": 3, "loss": 0.12}',
        b'{"batch":[1,2],"loss":0.1}',
        b'{"batch":[{"loss":1}]}',
        b'{"batch":[NaN]}',
        b'{"batch":{"size":1}}',
        b'{"batch":[1,2',
    ],
)
def test_metrics_of_a_training_loop_are_output_of_a_batch(line: bytes) -> None:
    assert decode_response(line, Ready(batch=BatchLimits(max_size=2))) is None


def test_chunks_and_log_lines_are_responses_of_a_child_that_does_not_announce_them() -> None:
    for line in (b'{"task_id":"t1","chunk":"a"}', b'{"task_id":"t1","log":"a"}'):
        assert isinstance(decode_response(line), ChildResponse)


@pytest.mark.parametrize("ready", [STREAMS, Ready(is_concurrent=True), Ready(batch=BatchLimits(max_size=2))])
def test_a_log_line_is_output_of_its_task(ready: Ready) -> None:
    assert decode_response('{"task_id":"t1","log":"a\\né"}'.encode(), ready) == LogLine("t1", "a\né")
    assert decode_response(b'{"task_id":"t1","log":7}', ready) is None
    assert decode_response(b'{"log":"a"}', ready) is None


@pytest.mark.parametrize(
    ("start", "chunk"),
    [
        (b'{"task_id": "t1", "chunk": "aaa', ChunkLine("t1", None)),
        (b' {"chunk":["a', ChunkLine(None, None)),
        (b'{"task_id":"t1","result":"aaa', None),
    ],
)
def test_a_chunk_that_is_too_long_to_be_read_is_recognised(start: bytes, chunk: ChunkLine | None) -> None:
    assert read_long_chunk(start) == chunk


def test_a_response_may_have_members_called_chunk_and_log() -> None:
    response = decode_response(b'{"task_id":"t1","chunk":"a","log":"b","result":7}', STREAMS)

    assert isinstance(response, ChildResponse)
    assert bytes(response.result) == b"7"


def test_a_response_with_progress_may_have_a_member_whose_name_is_not_utf8() -> None:
    response = decode_response(b'{"task_id":"t1","result":7,"progress":{"current":3},"\xff":1}')

    assert isinstance(response, ChildResponse)
    assert bytes(response.result) == b"7"


@pytest.mark.parametrize(
    ("line", "ready"),
    [
        (b'{"status":"ready"}', Ready()),
        (b'{"status":"ready","accepts":["cancel"],"concurrency":"x","batch":7}', Ready(accepts_cancel=True)),
        (
            b'{"status":"ready","accepts":["concurrent","stream"],"concurrency":32}',
            Ready(accepts_cancel=True, is_concurrent=True, streams=True, concurrency=32),
        ),
        (
            b'{"status":"ready","accepts":["batch"],"batch":{"max_size":16,"max_wait_ms":20}}',
            Ready(batch=BatchLimits(max_size=16, max_wait_ms=20)),
        ),
    ],
)
def test_a_ready_line_says_what_the_child_can_do(line: bytes, ready: Ready) -> None:
    response = decode_response(line)

    assert isinstance(response, ChildResponse)
    assert read_ready(response) == ready


@pytest.mark.parametrize(
    ("members", "name"),
    [
        (b'"accepts":"cancel"', "accepts"),
        (b'"accepts":["concurrent"],"concurrency":0', "concurrency"),
        (b'"accepts":["concurrent"],"concurrency":257', "concurrency"),
        (b'"accepts":["batch"]', "batch"),
        (b'"accepts":["batch"],"batch":{"max_size":257}', "batch.max_size"),
        (b'"accepts":["batch"],"batch":{"max_size":1,"max_wait_ms":-1}', "batch.max_wait_ms"),
    ],
)
def test_an_invalid_member_of_a_ready_line_is_named(members: bytes, name: str) -> None:
    response = decode_response(b'{"status":"ready",%b}' % members)

    assert isinstance(response, ChildResponse)
    with pytest.raises(ValueError, match=name):
        read_ready(response)
