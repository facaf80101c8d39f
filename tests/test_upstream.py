"""Calls to the upstream, over real sockets: what arrives, and how it fails."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from support import PATIENCE, STREAM_HEAD, Play, Side, chunk, raw_upstream, settings

from proxy import errors
from proxy.config import Timeouts
from proxy.fields import Fields
from proxy.http1 import Answer
from proxy.upstream import Upstream

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def said(data: bytes) -> Play:
    """An upstream that answers any request with ``data`` and then closes."""

    async def play(side: Side) -> None:
        await side.request()
        await side.say(data)

    return play


@asynccontextmanager
async def connected(url: str, **timeouts: float) -> AsyncIterator[Upstream]:
    """The upstream at ``url``, as the proxy sees it."""
    api = replace(settings(url).upstreams["api"], timeouts=Timeouts(**timeouts))
    upstream = Upstream(api)
    try:
        yield upstream
    finally:
        await upstream.close()


async def ask(upstream: Upstream) -> Answer:
    """Ask for something."""
    return await upstream.call("GET", "/v1/models", [], None)


async def test_what_arrived_before_the_cut_is_read_before_the_cut_is_told() -> None:
    stream = said(STREAM_HEAD + chunk(b"all of") + chunk(b" this"))
    async with raw_upstream(stream) as url, connected(url) as upstream:
        answer = await ask(upstream)
        async with asyncio.timeout(PATIENCE):
            while not answer._connection.closed:  # noqa: ASYNC110, SLF001
                await asyncio.sleep(0)  # nothing tells when the library has seen the cut
        assert await answer.read() == b"all of this"
        with pytest.raises(errors.UpstreamBrokeOff):
            await answer.read()
        answer.close()


async def silent(side: Side) -> None:
    """Begin to answer, and say no more."""
    await side.request()
    await side.say(STREAM_HEAD + chunk(b"so far"))
    await side.rest()


async def test_a_silent_upstream_is_given_up() -> None:
    async with raw_upstream(silent) as url, connected(url, idle=0.05) as upstream:
        answer = await ask(upstream)
        assert await answer.read() == b"so far"
        with pytest.raises(errors.UpstreamTimeout):
            await answer.read()
        answer.close()


async def test_an_upstream_that_never_answers_is_given_up() -> None:
    async def play(side: Side) -> None:
        await side.request()
        await side.rest()

    async with raw_upstream(play) as url, connected(url, first_byte=0.05) as upstream:
        with pytest.raises(errors.UpstreamTimeout):
            await ask(upstream)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", errors.UpstreamUnreachable),
        (b"HTTP/1.1 200", errors.UpstreamUnreachable),
        (b"SSH-2.0-OpenSSH_9.2\r\n", errors.UpstreamNonsense),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", errors.UpstreamNonsense),
    ],
)
async def test_what_is_no_answer_is_told_so(
    answer: bytes, error: type[errors.UpstreamError]
) -> None:
    async with raw_upstream(said(answer)) as url, connected(url) as upstream:
        with pytest.raises(error):
            await ask(upstream)


async def test_nobody_there_is_told_without_the_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    async with connected(url) as upstream:
        with pytest.raises(errors.UpstreamUnreachable) as refused:
            await ask(upstream)
    assert refused.value.message == "upstream api cannot be reached: connection refused"


async def test_a_name_that_nobody_knows_is_told() -> None:
    async with connected("http://no-such-host.invalid") as upstream:
        with pytest.raises(errors.UpstreamUnreachable, match="its name is not known"):
            await ask(upstream)


async def test_an_upstream_that_does_not_speak_tls_is_told_so() -> None:
    async def play(side: Side) -> None:
        await side.say(b"what?\r\n")

    async with raw_upstream(play) as url, connected(url.replace("p:", "ps:")) as upstream:
        with pytest.raises(errors.UpstreamUnreachable, match="TLS failed"):
            await ask(upstream)


async def test_fields_and_target_go_out_as_they_are() -> None:
    heads: list[bytes] = []

    async def play(side: Side) -> None:
        heads.append(await side.head())
        await side.say(b"HTTP/1.1 204 No Content\r\n\r\n")

    fields: Fields = [(b"x-a", b"1"), (b"x-b", b"\xc3\xa9"), (b"x-a", b"2")]
    async with raw_upstream(play) as url, connected(f"{url}/base") as upstream:
        answer = await upstream.call("PATCH", "//a/../b%2F?x=%20&&x=1?", fields, None)
        assert answer.status == 204
    head = heads[0].split(b"\r\n")
    assert head[0] == b"PATCH /base//a/../b%2F?x=%20&&x=1? HTTP/1.1"
    assert [line for line in head if line.startswith(b"x-")] == [
        b"x-a: 1",
        b"x-b: \xc3\xa9",
        b"x-a: 2",
    ]
    assert not {line.partition(b":")[0].lower() for line in head[1:]} & {
        b"accept",
        b"accept-encoding",
        b"content-type",
        b"content-length",
        b"user-agent",
    }
