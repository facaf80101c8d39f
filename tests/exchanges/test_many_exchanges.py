"""One exchange beside and after the other: none holds up another, and each makes room."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
from pathlib import Path

import pytest

from exchanges.harness import Exchanges, Gate, proxy_to
from proxy.exchange.exchange import OFFLOAD_FROM
from proxy.translation.translation import Translation
from support import (
    LAST,
    PATIENCE,
    STREAM_HEAD,
    Side,
    answer_all,
    completion,
    connect,
    old_request,
    raw_upstream,
)
from support.processes import served, write_config

pytestmark = pytest.mark.anyio


async def test_an_upstream_connection_serves_one_exchange_after_the_other() -> None:
    connections = 0

    async def play(side: Side) -> None:
        nonlocal connections
        connections += 1
        await answer_all(side)

    async with proxy_to(play) as (_, url), await connect(url) as client:
        for _ in range(2):
            await client.say(old_request())
            await client.until(b"data: [DONE]\r\n\r\n\r\n0\r\n\r\n")
    assert connections == 1


async def test_others_are_served_while_a_large_request_is_translated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A megabyte of short turns takes half a second."""
    others_were_served = threading.Event()
    translate = Translation.request

    def patient(self: Translation, endpoint: str, body: bytes) -> tuple[str, bytes]:
        assert others_were_served.wait(PATIENCE / 4)
        return translate(self, endpoint, body)

    monkeypatch.setattr(Translation, "request", patient)
    head, _, body = old_request().partition(b"\r\n\r\n")
    body += b" " * OFFLOAD_FROM
    head = re.sub(rb"content-length: \d+", b"content-length: %d" % len(body), head)
    async with proxy_to(answer_all) as (_, url), await connect(url) as large:
        await large.say(head + b"\r\n\r\n" + body)
        async with await connect(url) as other:
            for path in (b"metrics", b"ready"):
                await other.say(b"GET /-/%b HTTP/1.1\r\nhost: proxy\r\n\r\n" % path)
                await other.until(b"HTTP/1.1 200 OK\r\n")
        others_were_served.set()
        assert b'"completion":" Hi"' in await large.until(b"}\r\n\r\n")


async def test_what_waits_to_be_translated_is_let_go_of_when_its_client_leaves(
    log: Exchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing counts it any more, so that any number of large bodies could wait."""
    begun, go_on = threading.Event(), threading.Event()
    translate = Translation.request

    def patient(self: Translation, endpoint: str, body: bytes) -> tuple[str, bytes]:
        begun.set()
        assert go_on.wait(PATIENCE)
        return translate(self, endpoint, body)

    monkeypatch.setattr(Translation, "request", patient)
    head, _, body = old_request().partition(b"\r\n\r\n")
    body += b" " * OFFLOAD_FROM
    head = re.sub(rb"content-length: \d+", b"content-length: %d" % len(body), head)
    async with proxy_to(answer_all) as (app, url), await connect(url) as first:
        await first.say(head + b"\r\n\r\n" + body)
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        for _ in range(3):
            async with await connect(url) as leaving:
                await leaving.say(head + b"\r\n\r\n" + body)
            assert "client left before the first byte" in await log.line()
        held = [each for each in gc.get_objects() if isinstance(each, Translation)]
        go_on.set()
        assert len(held) == len(app.exchanges) == 1
        del held
        assert b'"completion":" Hi"' in await first.until(b"}\r\n\r\n")


async def test_at_the_limit_a_request_is_told_to_come_back_and_the_proxy_stays_ready() -> None:
    gate = Gate(STREAM_HEAD, completion(" Hi"))
    limits: dict[str, dict[str, object]] = {"limits": {"concurrent_exchanges": 1}}
    async with proxy_to(gate.play, limits) as (_, url), await connect(url) as first:
        await first.say(old_request())
        await first.until(b"}\r\n\r\n")
        async with await connect(url) as second:
            await second.say(old_request())
            head = await second.head()
            assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"retry-after: 1\r\n" in head
            assert b'"type":"overloaded_error"' in await second.until(b"}}")
            await second.say(b"GET /-/ready HTTP/1.1\r\nhost: proxy\r\n\r\n")
            assert (await second.head()).startswith(b"HTTP/1.1 200 OK\r\n")


def threads(process: int) -> set[str]:
    """The threads of a process, by their numbers."""
    return {thread.name for thread in Path(f"/proc/{process}/task").iterdir()}


async def test_no_request_needs_a_thread_that_was_not_there_from_the_start(tmp_path: Path) -> None:
    """Where none is left, the first look-up of a name would end the process."""
    file = tmp_path / "proxy.yaml"
    async with raw_upstream(answer_all) as url:
        write_config(file, url.replace("127.0.0.1", "localhost"))
        async with served("serve", "--config", str(file)) as proxy:
            before = threads(proxy.process.pid)
            async with await connect(proxy.url) as client:
                await client.say(old_request(prompt="x" * OFFLOAD_FROM))
                await client.until(b"data: [DONE]\r\n\r\n")
            async with asyncio.timeout(PATIENCE):
                while threads(proxy.process.pid) != before:  # noqa: ASYNC110  (nobody tells of it)
                    await asyncio.sleep(0)  # that of the look-up is about to end


NO_THREADS = """
import threading

start = threading.Thread.start

def no_more(thread):
    if thread._target.__module__ == "proxy.runtime.daemonthread":
        raise RuntimeError("can't start new thread")
    start(thread)

threading.Thread.start = no_more
"""
"""Has the system no thread left for a look-up."""


async def test_a_name_is_looked_for_by_threads_that_were_there_from_the_start(
    tmp_path: Path,
) -> None:
    """Those of libuv: where it cannot start one, it ends the process."""
    file = tmp_path / "proxy.yaml"
    (tmp_path / "sitecustomize.py").write_text(NO_THREADS)
    path = f"{tmp_path}:{Path(__file__).parents[2]}"
    async with raw_upstream(answer_all) as url:
        write_config(file, url.replace("127.0.0.1", "localhost"))
        async with served("serve", "--config", str(file), PYTHONPATH=path) as proxy:
            before = threads(proxy.process.pid)
            async with await connect(proxy.url) as client:
                await client.say(old_request())
                await client.until(b"data: [DONE]\r\n\r\n")
            assert threads(proxy.process.pid) == before


async def test_a_finished_exchange_makes_room_at_once() -> None:
    async def play(side: Side) -> None:
        while True:
            await side.request()
            await side.say(STREAM_HEAD + completion(" Hi") + LAST)

    limits: dict[str, dict[str, object]] = {"limits": {"concurrent_exchanges": 1}}
    async with proxy_to(play, limits) as (_, url):
        for _ in range(2):
            async with await connect(url) as client:
                await client.say(old_request())
                await client.until(b"data: [DONE]\r\n\r\n\r\n0\r\n\r\n")
