"""What arrives, or ends, before TLS is begun."""

from __future__ import annotations

import asyncio
import ssl
from functools import partial

import pytest

from proxy.upstream.http1 import Connection
from support import Certificate, Side, raw_upstream, until
from upstream.harness import connected

pytestmark = pytest.mark.anyio


async def test_what_arrives_before_tls_is_no_answer(certificate: Certificate) -> None:
    """Anyone between could have said it, and TLS itself would not notice."""

    async def play(side: Side) -> None:
        await side.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await side.writer.start_tls(certificate.serve())
        await side.rest()

    trusting = ssl.create_default_context(cafile=certificate.file)
    async with raw_upstream(play) as url, connected(url) as upstream:
        connection = await upstream._pool.new()
        await until(lambda: bool(connection._greeting))
        with pytest.raises(ssl.SSLError):
            await connection.start_tls(trusting, "127.0.0.1", 9)
        assert connection.closed


async def test_a_connection_that_was_closed_before_tls_is_told_at_once() -> None:
    """Else the time to connect in would pass: nobody is left to shake hands with."""

    async def play(side: Side) -> None:
        side.writer.close()

    async with raw_upstream(play) as url, connected(url) as upstream:
        host, _, port = url.removeprefix("http://").partition(":")
        _, connection = await asyncio.get_running_loop().create_connection(
            partial(Connection, upstream._pool), host, int(port)
        )
        await until(connection._transport.is_closing)
        with pytest.raises(ConnectionResetError):
            await connection.start_tls(ssl.create_default_context(), host, 9)
