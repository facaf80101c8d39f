"""Looking up a name holds up nobody else, and leaves nothing."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import weakref
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from proxy.core import errors
from proxy.upstream import addresses
from support import PATIENCE, raw_upstream, until
from upstream.harness import ANSWER, ask, by_name, connected, open_now, said, silent

pytestmark = pytest.mark.anyio


async def test_a_name_that_is_not_known_when_nobody_waits_any_more_is_no_fault_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    asked, down = asyncio.Event(), asyncio.Event()
    faults: list[dict[str, Any]] = []

    async def look_up(*_: object) -> list[Any]:
        asked.set()
        await down.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(addresses, "look_up", look_up)
    loop.set_exception_handler(lambda _, fault: faults.append(fault))
    async with connected("http://api.example") as upstream:
        call = asyncio.create_task(ask(upstream))
        await asked.wait()
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        down.set()
        await until(lambda: upstream._pool._addresses._lookup is None)
    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert not faults


async def test_a_pool_that_is_closed_asks_for_no_name_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = asyncio.Event()

    async def look_up(*_: object) -> list[Any]:
        asked.set()
        return await asyncio.Event().wait() and []

    monkeypatch.setattr(addresses, "look_up", look_up)
    async with connected("http://api.example") as upstream:
        call = asyncio.create_task(ask(upstream))
        await asked.wait()
        call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    await until(lambda: upstream._pool._addresses._lookup is None)


async def test_a_pool_that_is_closed_keeps_no_connection_that_was_on_its_way() -> None:
    async with raw_upstream(silent) as url, connected(url) as upstream:
        before = open_now()
        call = asyncio.create_task(ask(upstream))
        upstream.close()
        with pytest.raises(errors.UpstreamUnreachable):
            await call
        await until(lambda: open_now() == before)


async def test_names_that_nobody_answers_for_hold_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor the end of a process, which waits for the threads of a loop and not for these."""
    answered = threading.Event()
    looked_for: list[threading.Thread] = []
    ask_system = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, **more: Any) -> Any:
        if host.endswith(".example") and not more.get("flags"):
            looked_for.append(threading.current_thread())
            answered.wait(PATIENCE)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return ask_system(host, port, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with raw_upstream(said(ANSWER)) as url, AsyncExitStack() as silent:
        calls = []
        for number in range(40):
            upstream = await silent.enter_async_context(connected(f"http://{number}.example"))
            calls.append(asyncio.create_task(ask(upstream)))
        await until(lambda: len(looked_for) == len(calls))
        async with connected(by_name(url)) as upstream:
            (await ask(upstream)).close()
        answered.set()
        told = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(failure) for failure in told} == {errors.UpstreamUnreachable}
    assert all(thread.daemon for thread in looked_for)


async def test_a_name_that_is_not_known_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    left: weakref.WeakSet[OSError] = weakref.WeakSet()

    class Unknown(socket.gaierror):
        def __init__(self) -> None:
            super().__init__(socket.EAI_AGAIN, "Temporary failure in name resolution")
            left.add(self)

    def getaddrinfo(*_: object, **__: object) -> Any:
        raise Unknown

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    gc.disable()
    try:
        async with connected("http://api.example") as upstream:
            with suppress(Unknown):
                await upstream._pool.new()
            await until(lambda: not left)
    finally:
        gc.enable()


async def test_a_look_up_that_fails_itself_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise all would wait for it, for as long as the proxy runs."""

    def getaddrinfo(*_: object, flags: int = 0, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "no address") if flags else MemoryError

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with connected("http://api.example") as upstream:
        for _ in range(2):
            with pytest.raises(MemoryError):
                await upstream._pool.new()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
async def test_a_name_is_looked_for_where_no_thread_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    await asyncio.get_running_loop().getaddrinfo(None, 0)
    async with raw_upstream(said(ANSWER)) as url, connected(by_name(url)) as upstream:
        monkeypatch.setattr(threading.Thread, "start", start)
        (await ask(upstream)).close()
