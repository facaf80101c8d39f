"""Calls that are cancelled leave nothing, at whichever step."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress
from typing import Any

import pytest

from proxy.upstream.upstream import Upstream
from support import Certificate, Side, happened, raw_upstream, until
from upstream.harness import ask, connected, open_now, silent

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_call_that_is_cancelled_while_it_connects_leaves_nothing(scheme: str) -> None:
    """Over TLS, it is cancelled in the handshake."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def play(side: Side) -> None:
        asked.set()
        await side.rest()
        gone.set()

    async with raw_upstream(play) as url, connected(url.replace("http", scheme)) as upstream:
        before = open_now()
        call = asyncio.create_task(ask(upstream))
        await asked.wait()
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        await happened(gone)
        await until(lambda: open_now() == before)


async def cancelled_after(steps: int, upstream: Upstream) -> None:
    """Ask, and give up so many turns of the loop later."""
    call = asyncio.create_task(ask(upstream))
    for _ in range(steps):
        await asyncio.sleep(0)
    call.cancel()
    with suppress(asyncio.CancelledError):
        (await call).close()


@pytest.mark.parametrize("steps", range(12))
async def test_a_call_can_be_cancelled_at_every_step(steps: int) -> None:
    async with raw_upstream(silent) as url, connected(url) as upstream:
        before = open_now()
        await cancelled_after(steps, upstream)
        await until(lambda: open_now() == before)
        assert not upstream._pool._all


@pytest.mark.parametrize("steps", range(12))
async def test_over_tls_a_call_can_be_cancelled_at_every_step(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate, steps: int
) -> None:
    """What was made for TLS until then is let go of, and the certificates to trust with it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    freed = asyncio.Event()
    async with raw_upstream(silent, certificate.serve()) as url:
        before = open_now()
        async with connected(url) as upstream:
            weakref.finalize(upstream._pool._tls, freed.set)
            await cancelled_after(steps, upstream)
            await until(lambda: open_now() == before)
        del upstream
        gc.collect()
        await until(freed.is_set)
    assert not complaints
