"""The probe, as a health check runs it: its exit code, its output, and how little it imports."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from proxy.app import App
from proxy.server.server import running
from support import Side, raw_upstream, settings

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent


async def python(*arguments: str, **environ: str) -> tuple[int | None, str]:
    """Run Python to its end; returns its exit code and what it said."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=environ, stdout=PIPE, stderr=PIPE
    )
    printed, errors = await process.communicate()
    return process.returncode, (printed + errors).decode()


async def probe(url: str, path: str = "/-/healthy") -> tuple[int | None, str]:
    """Ask a server on this machine, whose port is an argument."""
    return await python("-m", "proxy.probe", path, url.rpartition(":")[2])


async def test_a_proxy_that_takes_work_is_healthy_and_ready() -> None:
    async with running(App(settings("http://127.0.0.1:9"))) as url:
        port = url.rpartition(":")[2]
        assert await python("-m", "proxy.probe", PORT=port) == (0, "")
        assert await probe(url, "/-/ready") == (0, "")


async def test_one_that_drains_is_healthy_but_not_ready() -> None:
    app = App(settings("http://127.0.0.1:9"))
    async with running(app) as url:
        app.drain()
        port = url.rpartition(":")[2]
        told = f"/-/ready on port {port}: 'HTTP/1.1 503 Service Unavailable'\n"
        assert await probe(url, "/-/ready") == (1, told)
        assert await probe(url) == (0, "")


async def test_where_nothing_listens_nothing_is_healthy() -> None:
    async with raw_upstream(_nothing) as url:
        pass
    code, said = await probe(url)
    assert code == 1
    assert "refused" in said


@pytest.mark.parametrize("answer", [b"", b"200\r\n", b"HTTP/1.1 2000 OK\r\n\r\n", b"x" * 9999])
async def test_what_is_no_answer_of_200_is_not_healthy(answer: bytes) -> None:
    async def play(side: Side) -> None:
        await side.head()
        await side.say(answer)

    async with raw_upstream(play) as url:
        code, said = await probe(url)
    assert code == 1
    assert len(said) < 2000
    assert "Traceback" not in said


async def test_a_port_that_is_none_is_told() -> None:
    code, said = await python("-m", "proxy.probe", PORT="http")
    assert code == 1
    assert "'http'" in said
    assert "Traceback" not in said


async def test_an_empty_port_is_the_usual_one_as_in_the_configuration() -> None:
    code, said = await python("-m", "proxy.probe", PORT="")
    assert code == 0 or "on port 8080: " in said  # whether something listens there or not


async def test_it_loads_nothing_of_the_proxy_and_no_library() -> None:
    dear = "{'asyncio', 'http', 'ssl'}"
    seen = f"import sys, proxy.probe; print(sorted({dear} & set(sys.modules)))"
    ours = "print(*(name for name in sys.modules if name.startswith('proxy.')))"
    assert await python("-c", f"{seen}; {ours}") == (0, "[]\nproxy.probe\n")


async def _nothing(_: Side) -> None:
    """Not say a word."""
