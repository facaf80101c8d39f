"""A proxy that is its own upstream, by whatever way, says so instead of asking for ever."""

from __future__ import annotations

import socket

import pytest

from door.harness import GET, Upstream, answer, door, envelope
from proxy.app import App
from proxy.core.fields import by_name, times_forwarded
from proxy.exchange import guard
from proxy.server.server import running
from support import connect, settings

pytestmark = pytest.mark.anyio


async def test_a_proxy_that_is_its_own_upstream_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    app = App(settings(f"http://127.0.0.1:{port}"))
    async with running(app, port=port) as url, await connect(url) as client:
        await client.say(GET + b"\r\n")
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 508 Loop Detected\r\n")
        assert "loop" in envelope(body, "api_error")


@pytest.mark.parametrize(("rounds", "status"), [(guard.ROUNDS - 1, b"200"), (guard.ROUNDS, b"508")])
async def test_a_few_proxies_in_a_row_are_no_loop(rounds: int, status: bytes) -> None:
    async with door(Upstream()) as client:
        others = b"via: 1.0 fred, 1.1 anthropic-version-proxy.test\r\n"
        await client.say(GET + others + b"via: 1.1 anthropic-version-proxy\r\n" * rounds + b"\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 %b " % status)


def test_entries_of_via_are_counted_however_they_are_written() -> None:
    ours = b"1.1 anthropic-version-proxy"
    written = [
        (b"via", b"%b, HTTP/1.1 Anthropic-Version-Proxy (a comment)" % ours),
        (b"x-via", ours),
        (b"via", b"1.1 other (anthropic-version-proxy),, %b" % ours),
    ]
    assert times_forwarded(by_name(written)) == 3
