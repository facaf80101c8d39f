"""Under ``/-/`` the proxy answers for itself: by what is written alone, and to nobody's page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from support import connect, settings

from proxy.app import App
from proxy.server import running

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def both_ports() -> AsyncIterator[tuple[str, str]]:
    """The address of a proxy without an upstream, and one for its endpoints alone."""
    app = App(settings("http://127.0.0.1:9"))
    async with running(app) as url, running(app.admin) as admin:
        yield url, admin


async def status(url: str, target: str) -> int:
    """The status of a GET of exactly this target, and that what is refused is told as ever."""
    async with await connect(url) as client:
        await client.say(f"GET {target} HTTP/1.0\r\nhost: localhost\r\n\r\n".encode())
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    answered = httpx.Response(int(head.split()[1]), content=body)
    if answered.is_client_error:
        assert answered.json()["error"]["type"] == "not_found_error"
    return answered.status_code


@pytest.mark.parametrize(
    "more", ["%0a", "%0A", "%0d", "%00", "%2e", "%2F", "./", "/", "%3fformat=csv", ";x", "%20"]
)
async def test_a_path_of_ours_is_taken_for_nothing_else(more: str) -> None:
    async with both_ports() as addresses:
        for url in addresses:
            for path in ("/-/", "/-/healthy", "/-/ledger", "/-/metrics"):
                assert await status(url, path + more) == 404, path


async def test_another_spelling_of_ours_is_not_ours() -> None:
    async with both_ports() as (url, admin):
        assert await status(url, "/-/%6cedger") == 404
        for target in ("/-/%6cedger", "/%2d/ledger", "/-%2F", "/-", "//-/", "//-/ledger"):
            assert await status(admin, target) == 404, target
        for path in ("/-/healthy", "/-/ready", "/-/metrics", "/-/ledger"):
            assert await status(url, path) == await status(admin, path) == 200, path
