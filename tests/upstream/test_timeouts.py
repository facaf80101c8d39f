"""How long an upstream may take to connect, to answer, and for each part of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence

import pytest

from proxy.core import errors
from support import STREAM_HEAD, Side, chunk, raw_upstream, until
from upstream.harness import ask, connected, silent

pytestmark = pytest.mark.anyio


async def test_a_silent_upstream_is_given_up() -> None:
    async with raw_upstream(silent) as url, connected(url, idle=0.05) as upstream:
        answer = await ask(upstream)
        assert await answer.read() == b"so far"
        with pytest.raises(errors.UpstreamTimeout):
            await answer.read()
        answer.close()


async def test_each_part_gives_as_much_time_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    clock, ahead = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: clock() + ahead)

    async def nearly_too_long() -> None:
        nonlocal ahead
        ahead += 3
        for _ in range(3):  # for what is due by now
            await asyncio.sleep(0)

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(2):
            yield b"?"
            await nearly_too_long()

    read = asyncio.Event()

    async def play(side: Side) -> None:
        await side.until(b"0\r\n\r\n")
        await nearly_too_long()
        await side.say(STREAM_HEAD)
        for _ in range(3):
            await side.say(chunk(b"!"))
            await read.wait()
            read.clear()

    async with raw_upstream(play) as url, connected(url, first_byte=5, idle=5) as upstream:
        answer = await upstream.call("POST", "/v1/messages", [], upload())
        for _ in range(3):
            assert await answer.read() == b"!"
            await nearly_too_long()
            read.set()
        answer.close()


async def test_an_upstream_that_never_answers_is_given_up() -> None:
    async def play(side: Side) -> None:
        await side.request()
        await side.rest()

    async with raw_upstream(play) as url, connected(url, first_byte=0.05) as upstream:
        with pytest.raises(errors.UpstreamTimeout):
            await ask(upstream)


async def test_a_handshake_has_all_the_time_to_connect_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event loops give it a minute, and then say that the connection was lost."""
    monkeypatch.setattr("asyncio.constants.SSL_HANDSHAKE_TIMEOUT", 0.01)

    async def play(side: Side) -> None:
        await side.rest()

    async with raw_upstream(play) as url, connected(url.replace("p:", "ps:"), connect=0.1) as slow:
        with pytest.raises(errors.UpstreamTimeout):
            await ask(slow)


async def test_the_last_part_is_waited_for_like_any_other() -> None:
    sent: list[bytes] = []
    taken: list[bytes] = []

    async def send(parts: Sequence[bytes]) -> None:
        sent.extend(parts)

    def take(parts: Sequence[bytes]) -> Awaitable[None]:
        taken.extend(parts)
        return send(parts)

    async with raw_upstream(silent) as url, connected(url) as upstream:
        answer = await ask(upstream)
        await answer.forward(take, enough=lambda: bool(taken))
        answer.close()
    assert sent == taken == [b"so far"]


async def test_what_came_in_time_is_read_though_all_of_it_took_too_long() -> None:
    """As by a client that is slow, for which the answer may have waited."""
    async with raw_upstream(silent) as url, connected(url, total=0.05) as upstream:
        answer = await ask(upstream)
        await until(lambda: answer._error is not None)
        assert await answer.read() == b"so far"
        with pytest.raises(errors.UpstreamTimeout, match="did not finish"):
            await answer.read()
        answer.close()
