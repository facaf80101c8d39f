"""As many files may be open as exchanges take."""

from __future__ import annotations

import resource
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.server import process
from support import connect
from support.processes import served, write_config

pytestmark = pytest.mark.anyio

HEALTHY = b"GET /-/healthy HTTP/1.1\r\nhost: proxy\r\n\r\n"


async def test_as_many_files_are_opened_as_exchanges_take(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    write_config(file, "http://127.0.0.1:9")
    few = ("prlimit", "--nofile=40:200")
    async with served("serve", "--config", str(file), within=few) as here, AsyncExitStack() as held:
        for _ in range(80):
            client = await held.enter_async_context(await connect(here.url))
            await client.say(HEALTHY)
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        assert await here.stopped() == 0
    assert "4050 files should be allowed, not 200" in "".join(here.said)


async def test_every_process_opens_more_files_when_more_exchanges_are_allowed(
    tmp_path: Path,
) -> None:
    file = tmp_path / "proxy.yaml"
    write_config(file, "http://127.0.0.1:9", limits={"concurrent_exchanges": 1})
    command = ("serve", "--config", str(file), "--workers", "2")
    async with (
        served(*command, within=("prlimit", "--nofile=60:200")) as here,
        AsyncExitStack() as held,
    ):
        await (await held.enter_async_context(await connect(here.url))).say(HEALTHY)
        write_config(file, "http://127.0.0.1:9")
        here.signal(signal.SIGHUP)
        for _ in range(2):
            await here.logged("reloaded: ")
        for _ in range(160):
            client = await held.enter_async_context(await connect(here.url))
            await client.say(HEALTHY)
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        assert await here.stopped() == 0
    assert "".join(here.said).count("4050 files should be allowed, not 200") == 1


def test_where_no_more_files_may_be_opened_the_usual_ones_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1 << 30))
    monkeypatch.setattr(resource, "setrlimit", refused)
    process.raise_file_limit(1000)
    assert len(caplog.messages) == 1
    assert "4050 files should be allowed, not 1024" in caplog.text


def refused(*_: object) -> None:
    raise ValueError("not allowed to raise maximum limit")  # as the library says EPERM
