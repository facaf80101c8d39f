"""Each test of faults runs on both event loops, and leaves nothing open."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from faults.proxies import Proxies, Proxy, ScriptedUpstream, proxied
from faults.scripts import SOON
from support import Certificate, raw_upstream


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both event loops: one runs on every machine, the other is what runs in earnest."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(scope="module")
async def proxies(anyio_backend: object) -> AsyncIterator[Proxies]:
    """Proxies in front of one upstream that differ in what they have no patience for."""
    upstream = ScriptedUpstream()
    impatient = {
        "": {},
        "first_byte": {"first_byte": SOON},
        "idle": {"idle": SOON},
        "total": {"total": 3 * SOON},
    }
    async with raw_upstream(upstream.play) as url, AsyncExitStack() as stack:
        proxies = {
            name: await stack.enter_async_context(proxied(upstream, url, timeouts))
            for name, timeouts in impatient.items()
        }
        for proxy in proxies.values():
            proxy.before = proxy.open_now()
        yield proxies


@pytest.fixture
def proxy(proxies: Proxies) -> Proxy:
    """A proxy with all the patience that proxies have."""
    return proxies[""]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The log of exchanges; a warning of any other logger fails the test."""
    caplog.set_level(logging.INFO, "proxy.exchanges")
    yield caplog
    others = {record.name for record in caplog.records} - {"proxy.exchanges"}
    assert others <= {"uvicorn.error"}  # of responses that are cut
    assert not [record for record in caplog.records if record.exc_info]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    """One for the address that upstreams have in tests, and one for another host."""
    folder = tmp_path_factory.mktemp("tls")
    hosts = {"right": "IP:127.0.0.1", "wrong": "DNS:api.example"}
    return {name: Certificate.made(folder / name, host) for name, host in hosts.items()}
