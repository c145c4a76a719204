"""Reading and writing asynq's task message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runqy.broker import message as messages
from runqy.broker.asynq_pb2 import TaskMessage

SMALL = "0a0a656d61696c3a73656e6412077b2275223a317d1a0469642d31220764656661756c74281940880e"
FULL = (
    "0a0174120200ff1a0169220171280330023a0165403c48e4e2cfaa0652136173796e713a7b717d3a756e697175653a743a"
    "5880e2cfaa0660901c68b2e2cfaa067201677a060a016b120176"
)
UNKNOWN_FIELD = b"\xf2\x01\x03new"  # field 30, which a later asynq may have


def full_message() -> TaskMessage:
    """Return the message of the second golden vector."""
    return TaskMessage(
        type="t",
        payload=b"\x00\xff",
        id="i",
        queue="q",
        retry=3,
        retried=2,
        error_msg="e",
        timeout=60,
        deadline=1_700_000_100,
        unique_key="asynq:{q}:unique:t:",
        last_failed_at=1_700_000_000,
        retention=3600,
        completed_at=1_700_000_050,
        group_key="g",
        headers={"k": "v"},
    )


@pytest.mark.parametrize(
    ("message", "golden"),
    [
        (
            TaskMessage(type="email:send", payload=b'{"u":1}', id="id-1", queue="default", retry=25, timeout=1800),
            SMALL,
        ),
        (full_message(), FULL),
    ],
)
def test_messages_have_the_bytes_that_asynq_writes(message: TaskMessage, golden: str) -> None:
    assert message.SerializeToString().hex() == golden
    assert messages.decode(bytes.fromhex(golden)) == message


@given(
    payload=st.binary(max_size=200),
    texts=st.tuples(*[st.text(max_size=40)] * 5),
    numbers=st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 5),
    counts=st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 2),
    headers=st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3),
)
def test_a_written_message_is_read_back(payload, texts, numbers, counts, headers) -> None:
    message = TaskMessage(
        payload=payload,
        headers=headers,
        **dict(zip(("type", "id", "queue", "error_msg", "group_key"), texts, strict=True)),
        **dict(zip(("timeout", "deadline", "last_failed_at", "retention", "completed_at"), numbers, strict=True)),
        **dict(zip(("retry", "retried"), counts, strict=True)),
    )

    assert messages.decode(message.SerializeToString()) == message


@given(st.binary(max_size=100))
def test_invalid_bytes_raise_message_unreadable(data: bytes) -> None:
    try:
        message = messages.decode(data)
    except messages.MessageUnreadable:
        return
    assert messages.decode(message.SerializeToString()) == message


def test_fields_that_are_unknown_to_us_survive_every_change() -> None:
    message = messages.decode(bytes.fromhex(SMALL) + UNKNOWN_FIELD)

    changed = [
        messages.as_completed(message, now_s=1),
        messages.as_failed(message, error="e", now_s=1, spends_retry=True),
    ]

    assert all(UNKNOWN_FIELD in one.SerializeToString() for one in changed)
    assert message.retried == 0


def test_a_failure_spends_a_retry_only_on_request() -> None:
    message = TaskMessage(retried=1)

    spent = messages.as_failed(message, error="boom", now_s=7, spends_retry=True)
    unspent = messages.as_failed(message, error="boom", now_s=7, spends_retry=False)

    assert (spent.retried, spent.error_msg, spent.last_failed_at) == (2, "boom", 7)
    assert unspent.retried == 1


def test_bytes_behind_a_message_make_it_that_of_a_cancelled_task() -> None:
    data = full_message().SerializeToString() + messages.cancellation(now_s=9)

    message = messages.decode(data)

    expected = full_message()
    expected.error_msg, expected.last_failed_at = "canceled", 9
    assert message == expected


@given(st.text())
def test_error_texts_become_texts_that_go_can_read(text: str) -> None:
    assert messages.clean_text(text) == text


def test_lone_surrogates_and_long_texts_are_made_fit() -> None:
    assert messages.clean_text("a\ud800b") == "a?b"
    long = messages.clean_text("x" * 100_000 + "the end")
    assert len(long.encode()) <= messages.ERROR_MAX_BYTES + 4
    assert long.endswith("the end")


@pytest.mark.parametrize(
    ("timeout", "deadline", "end"),
    [(60, 0, 1060), (60, 1030, 1030), (60, 5000, 1060), (0, 1500, 1500), (0, 0, 2800)],
)
def test_a_run_ends_at_its_timeout_or_deadline_whichever_is_earlier(timeout: int, deadline: int, end: int) -> None:
    message = TaskMessage(timeout=timeout, deadline=deadline)

    assert messages.run_deadline_s(message, now_s=1000) == end


@pytest.mark.parametrize(
    ("timeout", "deadline", "seconds"),
    [(60, 0, 60), (60, 1030, 29.25), (60, 5000, 60), (0, 1500, 499.25), (0, 0, 1800), (60, 900, -100.75)],
)
def test_a_run_has_all_of_its_timeout_although_deadlines_are_whole_seconds(
    timeout: int, deadline: int, seconds: float
) -> None:
    message = TaskMessage(timeout=timeout, deadline=deadline)

    assert messages.run_time_s(message, now_ns=1000_750_000_000) == seconds
