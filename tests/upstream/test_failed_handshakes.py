"""Handshakes of TLS that fail."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from proxy.core.errors import UpstreamUnreachable
from support import Side, happened, raw_upstream
from upstream.harness import connected

pytestmark = pytest.mark.anyio


async def test_a_handshake_that_fails_leaves_no_garbage() -> None:
    """It would keep the request, and half a megabyte that asyncio reads TLS into."""
    freed = asyncio.Event()

    async def play(side: Side) -> None:
        await side.reader.read(1)
        await side.say(b"220 what?\r\n")
        await side.rest()

    async def body() -> AsyncIterator[bytes]:
        yield b"first"

    gc.disable()
    try:
        async with raw_upstream(play) as url, connected(url.replace("http", "https")) as upstream:
            parts = body()
            weakref.finalize(parts, freed.set)
            call = upstream.call("POST", "/v1/files", [], parts)
            del parts
            with suppress(UpstreamUnreachable):
                await call
            del call
            await happened(freed)
    finally:
        gc.enable()
