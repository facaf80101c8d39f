"""Clients that do not take their answer, or do not leave, are left after a while."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from contextlib import suppress
from functools import partial
from typing import cast

import pytest
from starlette.types import Receive, Scope, Send

from door.harness import GET, POST, Upstream, door, message, serving, shorten, stay
from proxy import config
from proxy.app import App
from proxy.connection import patience, protocol, terms
from proxy.connection.patience import ENOUGH, Patience
from proxy.exchange.extensions import CONNECTION
from proxy.runtime.sockets import UNSENT
from proxy.server import settings as server_settings
from proxy.server.listeners import listen
from proxy.server.server import running
from support import happened

pytestmark = pytest.mark.anyio


async def test_a_refused_client_that_stays_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, "LINGER")

    async with door(Upstream()) as client:
        await client.say(b"what?\r\n\r\n")
        message(await client.rest(), 400)
        await stay(client)


async def test_a_slow_client_that_is_let_go_gets_the_last_of_its_answer_and_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorten(monkeypatch, "LINGER")
    lingered = asyncio.Event()
    expire = protocol.Protocol._expire

    def expired(connection: protocol.Protocol) -> None:
        expire(connection)
        lingered.set()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope["extensions"][CONNECTION].transport
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not transport.get_write_buffer_size():
            part = b"x" * (16 << 10)
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    monkeypatch.setattr(protocol.Protocol, "_expire", expired)
    async with serving(application) as client:
        await client.say(POST + b"connection: close\r\ncontent-length: 5\r\n\r\n")
        await happened(lingered)
        assert (await client.rest()).endswith(b"x\r\n0\r\n\r\n")
        await stay(client)


async def test_a_client_that_has_taken_what_waited_is_not_left_for_it() -> None:
    timers: list[asyncio.TimerHandle] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"][CONNECTION]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not connection.flow.write_paused:
            part = b"x" * (16 << 10)
            await send({"type": "http.response.body", "body": part, "more_body": True})
        timers.append(connection._patience._timer)
        await connection.flow.drain()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with serving(application) as client:
        await client.say(GET + b"connection: close\r\n\r\n")
        await client.rest()
    assert [timer.cancelled() for timer in timers] == [True]


@pytest.mark.parametrize("ending", ["asked to close", "silent", "half-closed", "cut"])
async def test_a_client_that_does_not_take_the_last_of_its_answer_is_left(
    monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    written, left = asyncio.Event(), asyncio.Event()
    give_up = protocol.Protocol._give_up

    def given_up(connection: protocol.Protocol) -> None:
        give_up(connection)
        left.set()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"][CONNECTION]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not connection.transport.get_write_buffer_size():
            part = b"x" * (16 << 10)
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0)
        assert not connection.flow.write_paused  # so little that no more is waited for
        written.set()
        if ending == "silent":
            connection.timeout_keep_alive = 0
        if ending != "cut":
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    monkeypatch.setattr(protocol.Protocol, "_give_up", given_up)
    monkeypatch.setattr(server_settings, "Terms", partial(terms.Terms, patience=0.05))
    async with serving(application) as client:
        fields = b"connection: close\r\n" if ending == "asked to close" else b""
        await client.say(POST + fields + b"content-length: 0\r\n\r\n")
        await happened(written)
        if ending == "half-closed":
            client.writer.write_eof()
        await happened(left)
        assert not (await client.rest()).endswith(b"0\r\n\r\n")


@pytest.mark.skipif(sys.platform != "linux", reason="no other system is asked")
async def test_a_client_that_keeps_taking_is_not_left_though_the_system_holds_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[bool] = []
    left = asyncio.Event()
    look = Patience._on_timer

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not left.is_set():
            part = b"x" * (16 << 10)
            await send({"type": "http.response.body", "body": part, "more_body": True})

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await application(scope, receive, send)

    def looked(patience: Patience) -> None:
        if len(looks) < 3:
            client.recv(2 * ENOUGH, socket.MSG_WAITALL)
        look(patience)
        looks.append(patience._transport.is_closing())
        if looks[-1]:
            left.set()

    monkeypatch.setattr(Patience, "_on_timer", looked)
    monkeypatch.setattr(server_settings, "Terms", partial(terms.Terms, patience=0.05))
    async with running(answers) as url:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)  # its own holds little
            client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            client.sendall(GET + b"\r\n")
            await happened(left)
    assert looks == [False, False, False, True]


@pytest.mark.parametrize(("ours", "systems"), [(4, 1), (1, 4)], ids=["ours", "the system's"])
async def test_a_client_is_kept_that_takes_of_what_waits_with_us_or_in_the_system(
    monkeypatch: pytest.MonkeyPatch, ours: int, systems: int
) -> None:
    waits = [[max(left, 1) for left in range(of, of - 6, -1)] for of in (ours, systems)]
    buffers, queues = (iter([left * ENOUGH for left in sizes]) for sizes in waits)
    looks = 0

    class Transport:
        def get_extra_info(self, _: str) -> None:
            nonlocal looks
            looks += 1

        def get_write_buffer_size(self) -> int:
            return next(buffers)

    monkeypatch.setattr(patience, "unacknowledged", lambda _: next(queues))
    left = asyncio.Event()
    Patience(cast(asyncio.Transport, Transport()), 0, left.set)
    await happened(left)
    assert looks == 5


@pytest.mark.skipif(sys.platform != "linux", reason="the system's own bound is another")
def test_of_what_a_client_does_not_read_little_waits_in_the_system() -> None:
    """It is the memory of the container, and no exchange need be counted for it."""
    taken = 0
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        accepted.setblocking(False)
        with suppress(BlockingIOError):
            while taken < 16 << 20:
                taken += accepted.send(bytes(16 << 10))
    assert UNSENT <= taken < 1 << 20


def test_a_client_may_be_slow_for_as_long_as_the_most_patient_of_upstreams() -> None:
    raw = {
        "upstreams": {
            name: {
                "base_url": "http://127.0.0.1:9",
                "speaks": ["2023-06-01"],
                "timeouts": {"idle": idle},
            }
            for name, idle in (("a", 30), ("b", 300), ("c", 3))
        },
        "routes": [{"path": f"/{name}", "upstream": name} for name in "abc"],
    }
    app = App(config.parse(json.dumps(raw), "test", {}))
    assert server_settings.settings_for(app).terms().patience == 300
