"""Cutting streams into lines, and writing to children that do not read."""

import asyncio
import itertools
import os

from hypothesis import given
from hypothesis import strategies as st

from tests.support import event_loop
from workers.runtime.logs import TokenBucket
from workers.runtime.pipes import LineSplitter, LongLine, PipeReader, PipeWriter


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_lines_do_not_depend_on_how_the_stream_arrives(data: bytes, cuts: list[int]) -> None:
    splitter = LineSplitter(1000)
    boundaries = [0, *sorted(cuts), len(data)]

    lines = [
        line for start, end in itertools.pairwise(boundaries) for line in splitter.feed(data[start : max(start, end)])
    ]

    assert lines == data.split(b"\n")[:-1]


def test_a_line_that_is_too_long_is_marked_and_the_next_is_whole() -> None:
    splitter = LineSplitter(4)

    lines = [line for part in (b"ab", b"cdefg", b"h\nok\n", b"1234\n12345\n") for line in splitter.feed(part)]

    assert lines == [LongLine(b"abcdefg"), b"ok", b"1234", LongLine(b"12345")]


def test_an_unterminated_line_is_the_rest_unless_it_is_too_long() -> None:
    splitter = LineSplitter(4)

    rests = []
    for part in (b"", b"one\n", b"one\nt", b"wo", b"12345", b"\n12"):
        assert not [line for line in splitter.feed(part) if isinstance(line, LongLine)]
        rests.append(splitter.rest())

    assert rests == [b"", b"", b"t", b"wo", b"", b"12"]


def test_data_that_a_full_pipe_does_not_accept_is_sent_later() -> None:
    data = os.urandom(3 << 20)

    async def transfer() -> bytes:
        source, target = os.pipe()
        received: list[bytes] = []
        done = asyncio.Event()
        writer = PipeWriter(target)
        writer.write(data[:1000])
        writer.write(data[1000:])
        writer.close_when_empty()

        def collect(part: bytes) -> None:
            received.append(part)
            if sum(map(len, received)) == len(data):
                done.set()

        reader = PipeReader(source, collect)
        await asyncio.wait_for(done.wait(), 60)
        reader.close()
        return b"".join(received)

    assert event_loop.run(transfer()) == data


def test_writing_to_a_closed_pipe_is_ignored() -> None:
    async def write() -> None:
        source, target = os.pipe()
        os.close(source)
        writer = PipeWriter(target)
        writer.write(b"lost")
        await asyncio.sleep(0)
        writer.write(b"lost too")
        await asyncio.sleep(0)
        writer.close()

    event_loop.run(write())


def test_an_allowance_grows_with_time_to_its_limit() -> None:
    now = [0.0]
    bucket = TokenBucket(rate=10, limit=3, now_s=lambda: now[0])

    at_once = [bucket.acquire() for _ in range(5)]
    now[0] = 0.1
    later = [bucket.acquire() for _ in range(2)]
    now[0] = 100
    much_later = [bucket.acquire() for _ in range(5)]

    assert at_once == [True, True, True, False, False]
    assert later == [True, False]
    assert much_later == [True, True, True, False, False]
