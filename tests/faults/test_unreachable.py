"""Upstreams that cannot be reached: the client of each kind of exchange is told so."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from faults.answers import TOO_LATE, check_refused, check_unreachable, endings, unreachable
from faults.kinds import NATIVE
from faults.proxies import ScriptedUpstream, proxied
from faults.scripts import SOON, stalls
from support import raw_upstream, until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def refusing() -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    yield url


@asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """A host that does not answer: its queue is full, and nobody takes from it."""
    with socket.socket() as hole, socket.socket() as last, socket.socket() as one_more:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        for filler in (last, one_more):
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
        yield f"http://127.0.0.1:{hole.getsockname()[1]}"


@asynccontextmanager
async def nameless() -> AsyncIterator[str]:
    yield "http://no-such-host.invalid"


UNREACHABLE = {
    "refused": (refusing, unreachable("connection refused"), 502),
    "a black hole": (black_hole, TOO_LATE, 504),
    "an unknown name": (nameless, unreachable("its name is not known"), 502),
}


@pytest.mark.usefixtures("anyio_backend")
@pytest.mark.parametrize(("place", "message", "status"), UNREACHABLE.values(), ids=UNREACHABLE)
async def test_an_upstream_that_cannot_be_reached(
    log: pytest.LogCaptureFixture,
    place: Callable[[], AbstractAsyncContextManager[str]],
    message: str,
    status: int,
) -> None:
    timeouts = {"connect": SOON} if status == 504 else {}
    async with place() as url, proxied(ScriptedUpstream(), url, timeouts) as proxy:
        await check_unreachable(proxy, log, message, status)


@asynccontextmanager
async def handshake() -> AsyncIterator[str]:
    """A host that says nothing when TLS is spoken to it."""
    async with raw_upstream(stalls) as url:
        yield url.replace("http:", "https:")


CONNECTING = pytest.mark.parametrize("place", [black_hole, handshake])


@pytest.mark.usefixtures("anyio_backend")
@CONNECTING
async def test_a_drain_ends_what_still_connects(
    log: pytest.LogCaptureFixture, place: Callable[[], AbstractAsyncContextManager[str]]
) -> None:
    message = "the proxy is shutting down"
    async with (
        place() as url,
        proxied(ScriptedUpstream(), url, {}) as proxy,
        proxy.nothing_left(),
        await proxy.client(NATIVE.request) as client,
    ):
        await until(lambda: len(proxy.app.exchanges) == 1)
        proxy.app.drain()
        check_refused(await client.rest(), 503, "overloaded_error", message)
    assert endings(log) == [f'ended=drained error="overloaded_error: {message}"']


@pytest.mark.usefixtures("anyio_backend")
@CONNECTING
async def test_a_client_that_leaves_what_still_connects_leaves_nothing(
    log: pytest.LogCaptureFixture, place: Callable[[], AbstractAsyncContextManager[str]]
) -> None:
    async with (
        place() as url,
        proxied(ScriptedUpstream(), url, {}) as proxy,
        proxy.nothing_left(),
        await proxy.client(NATIVE.request),
    ):
        await until(lambda: len(proxy.app.exchanges) == 1)
    assert endings(log) == ['ended="client left before the first byte"']
