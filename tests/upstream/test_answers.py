"""Answers of the upstream: what of them is read, and what is no answer."""

from __future__ import annotations

import asyncio
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest

from proxy.core import errors
from support import PATIENCE, STREAM_HEAD, Side, chunk, raw_upstream
from upstream.harness import ask, connected, said, silent

pytestmark = pytest.mark.anyio


async def test_what_arrived_before_the_cut_is_read_before_the_cut_is_told() -> None:
    stream = said(STREAM_HEAD + chunk(b"all of") + chunk(b" this"))
    async with raw_upstream(stream) as url, connected(url) as upstream:
        answer = await ask(upstream)
        async with asyncio.timeout(PATIENCE):
            while answer._error is None:  # noqa: ASYNC110
                await asyncio.sleep(0)  # nothing tells when the library has seen the cut
        assert await answer.read() == b"all of this"
        with pytest.raises(errors.UpstreamBrokeOff):
            await answer.read()
        answer.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", errors.UpstreamUnreachable),
        (b"HTTP/1.1 200", errors.UpstreamUnreachable),
        (b"SSH-2.0-OpenSSH_9.2\r\n", errors.UpstreamNonsense),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", errors.UpstreamNonsense),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: " + b"0" * 5000 + b"\r\n\r\n",
            errors.UpstreamNonsense,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            errors.UpstreamNonsense,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\t\r\n\r\n0\r\n\r\n",
            errors.UpstreamNonsense,
        ),
    ],
)
async def test_what_is_no_answer_is_told_so(
    answer: bytes, error: type[errors.UpstreamError]
) -> None:
    async with raw_upstream(said(answer)) as url, connected(url) as upstream:
        with pytest.raises(error):
            await ask(upstream)


async def test_blanks_around_a_coding_mean_nothing() -> None:
    head = STREAM_HEAD.replace(b"chunked", b" Chunked  ")
    assert head != STREAM_HEAD
    stream = said(head + chunk(b"all") + b"0\r\n\r\n")
    async with raw_upstream(stream) as url, connected(url) as upstream:
        assert await (await ask(upstream)).read_all(9) == b"all"


async def test_fields_of_an_interim_answer_are_not_those_of_the_answer() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\ncontent-length: 9\r\n\r\n"
    whole = said(hints + b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nall")
    async with raw_upstream(whole) as url, connected(url) as upstream:
        answer = await ask(upstream)
        assert answer.fields == [(b"content-length", b"3")]
        assert await answer.read_all(9) == b"all"


class Forgetful:
    """A parser that has no memory for some of what it is fed."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser

    def feed_data(self, data: bytes) -> None:
        if b"lost" in data:
            raise MemoryError
        self._parser.feed_data(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


async def test_an_answer_that_lacks_a_part_of_its_middle_is_not_whole() -> None:
    heard = asyncio.Event()

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + chunk(b"first"))
        await heard.wait()
        await side.say(chunk(b"last") + chunk(b""))
        await side.rest()

    async with raw_upstream(play) as url, connected(url) as upstream:
        answer = await ask(upstream)
        assert await answer.read() == b"first"
        answer._parser = Forgetful(answer._parser)
        (connection,) = upstream._pool._all
        with suppress(MemoryError):  # which has event loops close it, and the rest is read
            connection.data_received(chunk(b"lost"))
        heard.set()
        with pytest.raises(MemoryError):
            await answer.read_all(99)
        answer.close()
        assert connection.closed


async def test_what_stands_beside_the_parts_of_a_body_is_counted_from_each() -> None:
    async with raw_upstream(silent) as url, connected(url) as upstream:
        connection = await upstream._pool.new()
        answer = connection.call(b"", "api", 9, 99, bodiless=False)
        connection.data_received(STREAM_HEAD)
        for _ in range(30_000):  # of which each is cut behind its size
            connection.data_received(b"1\r\n")
            connection.data_received(b"x\r\n")
            assert await answer.read() == b"x"
        connection.data_received(chunk(b""))
        assert await answer.read() == b""
        answer.close()


async def test_an_answer_in_drips_takes_no_more_memory_than_it_is_long() -> None:
    """Two bytes are some fifty more where each part is kept by itself."""
    async with raw_upstream(silent) as url, connected(url) as upstream:
        connection = await upstream._pool.new()
        answer = connection.call(b"", "api", 9, 99, bodiless=False)
        connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 20000\r\n\r\n")
        tracemalloc.start()
        try:
            reading = asyncio.create_task(answer.read_all(1 << 20))
            for number in range(10_000):
                await asyncio.sleep(0)
                connection.data_received(b"%02d" % (number % 100))
            assert len(await reading) == 20_000
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        answer.close()
    assert peak < 5 * 20_000


async def test_parts_that_arrive_while_one_is_being_taken_wait_for_it() -> None:
    """Even in the same turn, in which nobody can tell yet that it takes time."""
    taken: list[bytes] = []

    async def take_slowly(part: bytes) -> None:
        await asyncio.sleep(0)
        taken.append(part)

    async with raw_upstream(silent) as url, connected(url) as upstream:
        connection = await upstream._pool.new()
        answer = connection.call(b"", "api", 9, 99, bodiless=False)
        connection.data_received(STREAM_HEAD)
        reading = asyncio.create_task(answer.forward(lambda parts: take_slowly(b"".join(parts))))
        await asyncio.sleep(0)
        for part in (b"one", b"two"):
            connection.data_received(chunk(part))
        connection.data_received(chunk(b""))
        async with asyncio.timeout(PATIENCE):
            await reading
        answer.close()
    assert taken == [b"one", b"two"]


async def test_an_answer_of_which_enough_is_taken_is_not_waited_for() -> None:
    """Its upstream may say nothing more, and not end it either."""
    taken: list[bytes] = []
    async with raw_upstream(silent) as url, connected(url) as upstream:
        connection = await upstream._pool.new()
        answer = connection.call(b"", "api", 9, 99, bodiless=False)
        connection.data_received(STREAM_HEAD)
        reading = asyncio.create_task(answer.forward(taken.extend, lambda: bool(taken)))
        await asyncio.sleep(0)
        connection.data_received(chunk(b"enough"))
        async with asyncio.timeout(PATIENCE):
            await reading
        answer.close()
    assert taken == [b"enough"]
