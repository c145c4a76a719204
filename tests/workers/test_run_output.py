"""What of a run's output is sent to Redis."""

import random

import pytest

from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.tasks.lease import Lease, LeasedTask
from runqy.broker.tasks.output import MAX_BYTES, OutputChunk
from workers.runtime import task_output
from workers.runtime.redaction import Secrets
from workers.runtime.task_output import RunOutput

TAKEN = LeasedTask(lease=Lease("mail", "t1", "o"), message=TaskMessage(id="t1"), lease_end_s=0)


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> RunOutput:
    secrets = Secrets()
    secrets.add(["hunter2-hunter2"])
    monkeypatch.setattr(task_output, "secrets", secrets)
    return RunOutput()


def take(output: RunOutput, limit: int = MAX_BYTES, *, is_final: bool = False) -> OutputChunk:
    return output.next_chunk(TAKEN, limit, is_final=is_final)


def test_lines_of_both_streams_are_sent_in_their_order(output: RunOutput) -> None:
    output.add_stderr(b"one\n")
    output.add_line(b"two")
    output.add_stderr(b"three\n")

    assert take(output).text == b"one\ntwo\nthree\n"


def test_an_unfinished_line_is_sent_at_the_end(output: RunOutput) -> None:
    output.add_stderr(b"one\ntw")
    output.add_line(b"between")

    assert take(output).text == b"one\nbetween\n"
    assert take(output, is_final=True).text == b"one\nbetween\ntw"


def test_a_carriage_return_ends_a_line(output: RunOutput) -> None:
    output.add_stderr(b"10 %\r20 %\r30")

    assert take(output).text == b"10 %\r20 %\r"


def test_what_is_not_confirmed_is_sent_again(output: RunOutput) -> None:
    output.add_line(b"one")
    first = take(output)
    output.add_line(b"two")
    second = take(output)
    output.confirm(first)
    third = take(output)

    assert (second.offset, second.text) == (0, b"one\ntwo\n")
    assert (third.offset, third.text) == (4, b"two\n")


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_secrets_are_masked_however_they_arrive(output: RunOutput, size: int) -> None:
    text = b"password: hunter2-hunter2\n" * 3
    sent = b""
    for start in range(0, len(text), size):
        output.add_stderr(text[start : start + size])
        chunk = take(output)
        sent += chunk.text
        output.confirm(chunk)

    assert sent == b"password: ****\n" * 3


def test_a_flood_keeps_its_last_lines_and_counts_the_others(output: RunOutput) -> None:
    lines = b"".join(b"line %d\n" % n for n in range(100_000))
    for start in range(0, len(lines), 65_536):
        output.add_stderr(lines[start : start + 65_536])
        assert len(output) <= 4 * MAX_BYTES

    chunk = take(output)

    assert len(chunk.text) <= MAX_BYTES
    assert lines.endswith(chunk.text)
    assert chunk.text.startswith(b"line ")
    assert chunk.offset + len(chunk.text) == len(lines)


def test_a_line_without_an_end_takes_limited_memory(output: RunOutput) -> None:
    for _ in range(100):
        output.add_stderr(b"x" * 10_000)
        assert len(output) <= MAX_BYTES + 10_000
    output.add_stderr(b"\nend\n")

    assert take(output).text.endswith(b"\nend\n")


@pytest.mark.parametrize("end", [b"\n", b"\r", b""])
def test_of_a_line_that_is_too_long_no_rest_is_sent(output: RunOutput, end: bytes) -> None:
    line = b"x" * MAX_BYTES + b"hunter2-hunter2 and more"
    for data in (line[:-16], line[-16:-8], line[-8:] + end):
        output.add_stderr(data)
        take(output)
    if end:
        output.add_stderr(b"after")

    chunk = take(output, is_final=True)

    assert (chunk.offset, chunk.text) == (len(line), end + b"after" if end else b"\n")


def test_a_confirmation_that_arrives_late_changes_nothing(output: RunOutput) -> None:
    chance = random.Random(7)
    stored, sent = b"", []
    for number in range(300):
        output.add_line(b"line %d" % number)
        sent.append(take(output, is_final=True))
        for chunk in chance.sample(sent, min(len(sent), 2)):
            stored += chunk.text[max(len(stored) - chunk.offset, 0) :] if chunk.offset <= len(stored) else b""
            output.confirm(chunk)

    last = take(output)
    stored += last.text[len(stored) - last.offset :]
    assert stored == b"".join(b"line %d\n" % number for number in range(300))


def test_progress_is_sent_until_it_is_confirmed(output: RunOutput) -> None:
    output.set_progress(b"1")
    first = take(output)
    output.set_progress(b"2")
    output.confirm(first)
    second = take(output)
    output.confirm(second)

    assert (first.progress, second.progress, take(output).progress) == (b"1", b"2", b"")
    assert output.is_stored
