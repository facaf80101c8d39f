"""Silence: pings are sent in it and never behind the end, and each side is asked if it is there."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.types import Message

from exchanges.harness import MUCH, Gate, client_with, stuck
from proxy.app import App
from proxy.exchange import keepalive
from proxy.exchange.keepalive import Keepalive
from proxy.server.server import running
from support import PATIENCE, Side, connect, happened, old_request, raw_upstream, settings, until

pytestmark = pytest.mark.anyio


async def test_no_ping_overtakes_the_end_that_waits_for_a_slow_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent = asyncio.Event()
    look = Keepalive._on_timer

    def looked(pinger: Keepalive) -> None:
        client = pinger._client
        due = client.last_write + keepalive.SILENCE <= asyncio.get_running_loop().time()
        end_waits = client.behind
        look(pinger)
        if due and end_waits:
            silent.set()

    monkeypatch.setattr(Keepalive, "_on_timer", looked)
    monkeypatch.setattr(keepalive, "SILENCE", 0.15)

    async def play(side: Side) -> None:
        await side.request()
        await side.say(MUCH)

    async with raw_upstream(play) as upstream:
        configured = settings(upstream)
        routes = tuple(replace(route, keepalive="timestamp") for route in configured.routes)
        async with running(App(replace(configured, routes=routes))) as url, stuck(url) as client:
            await happened(silent)
            rest = b""
            async with asyncio.timeout(PATIENCE):
                while not rest.endswith(b"\r\n0\r\n\r\n"):
                    rest = rest[-500:] + await client.reader.read(1 << 20)
    last, done = rest.index(b'"stop_reason":"stop_sequence"'), rest.index(b"data: [DONE]\r\n\r\n")
    assert b"event: ping" not in rest[last:done]


@pytest.mark.parametrize("started", [True, False], ids=["started", "not started"])
async def test_a_ping_fills_only_a_long_silence_of_a_stream_that_has_begun(
    *, started: bool
) -> None:
    """Before it has, the upstream may still refuse, and a ping would stand before the head."""
    written: list[bytes] = []

    async def send(message: Message) -> None:
        written.append(message["body"])

    client = client_with(send)
    client.started = started
    pinger = Keepalive(client, lambda: b"ping")
    with pinger:
        client.last_write = asyncio.get_running_loop().time()
        pinger._on_timer()
        await asyncio.sleep(0)
        assert not written
        assert pinger._timer.when() == client.last_write + keepalive.SILENCE
        client.last_write -= keepalive.SILENCE
        pinger._on_timer()
        await asyncio.sleep(0)
    assert written == [b"ping"] * started


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
async def test_a_ping_that_waits_does_not_come_after_the_end(*, begun: bool) -> None:
    """Where the client reads on just as the end arrives, either could be the first to go on."""
    reads_on = asyncio.Event()
    written: list[bytes] = []

    async def send(message: Message) -> None:
        if message["body"] == b"ping":
            await reads_on.wait()
        written.append(message["body"])

    client = client_with(send)
    client.ping(b"ping")
    if begun:
        await asyncio.sleep(0)
    assert client.behind
    reads_on.set()
    ending = client.write_all([b"end"])
    assert ending is not None
    await ending
    assert not client.behind
    assert written == [b"end"]


async def test_a_ping_may_be_given_up_before_it_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive, "SILENCE", 0)

    async def send(_: Message) -> None:
        await asyncio.Event().wait()

    def ping() -> bytes:
        exchange.cancel()
        return b""

    async def silence() -> None:
        with Keepalive(client_with(send), ping):
            await asyncio.Event().wait()

    exchange = asyncio.create_task(silence())
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([exchange])
    assert exchange.cancelled()
    gc.collect()  # which would tell of a wait that nobody began


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "never taken"])
async def test_a_ping_that_had_to_wait_is_neither_the_last_nor_left_behind(
    monkeypatch: pytest.MonkeyPatch, *, taken: bool
) -> None:
    monkeypatch.setattr(keepalive, "SILENCE", 0)
    before = asyncio.all_tasks()
    looks = asyncio.Semaphore(0)
    look = Keepalive._on_timer
    pings = 0

    def looked(pinger: Keepalive) -> None:
        look(pinger)
        looks.release()

    async def send(_: Message) -> None:
        if not taken:
            await asyncio.Event().wait()

    def ping() -> bytes:
        nonlocal pings
        pings += 1
        return b""

    monkeypatch.setattr(Keepalive, "_on_timer", looked)
    with Keepalive(client_with(send), ping):
        async with asyncio.timeout(PATIENCE):
            for _ in range(9):
                await looks.acquire()
    assert pings > 1 if taken else pings == 1
    await until(lambda: asyncio.all_tasks() == before)


TCP = Path("/proc/net/tcp")

OPEN, KEEPALIVE = "01", "02"
"""As Linux tells the state of a connection, and its timer."""


def timers(*, here: int, there: int) -> list[tuple[str, float]]:
    """What the connections from ``here`` and those to ``there`` wait for, and for what seconds."""
    found = []
    for _, local, remote, state, _, timer, *_ in map(str.split, TCP.read_text().splitlines()):
        if state == OPEN and (local.endswith(f":{here:04X}") or remote.endswith(f":{there:04X}")):
            kind, ticks = timer.split(":")
            found.append((kind, int(ticks, 16) / 100))
    return found


@pytest.mark.skipif(not TCP.exists(), reason="only Linux tells of its timers")
async def test_whoever_is_silent_is_asked_whether_it_is_there() -> None:
    """And what stands between, such as NAT, is reminded of the connection."""
    gate = Gate()
    async with (
        raw_upstream(gate.play) as upstream,
        running(App(settings(upstream))) as url,
        await connect(url) as client,
    ):
        await client.say(old_request())
        await happened(gate.asked)
        ours, theirs = (int(base.rpartition(":")[2]) for base in (url, upstream))
        waiting: list[tuple[str, float]] = []

        def only_that() -> bool:
            """Whether nothing else is waited for, such as that the last bytes are acknowledged."""
            waiting[:] = timers(here=ours, there=theirs)
            return [kind for kind, _ in waiting] == [KEEPALIVE, KEEPALIVE]

        await until(only_that)
        assert max(left for _, left in waiting) <= 60
