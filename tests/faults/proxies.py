"""The proxy between a client and a scripted upstream that misbehave on cue.

Afterwards it is checked that the exchange has left nothing open.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import pytest

from proxy import config
from proxy.app import App
from proxy.exchange import relay
from proxy.exchange.exchange import Exchange
from proxy.server.server import running
from proxy.upstream.upstream import Upstream
from support import Play, Side, connect, raw_upstream, until

EVENT_LIMIT = 4096


def configuration(url: str, timeouts: dict[str, float], drain: float = 0) -> config.Config:
    """A configuration for all four kinds of exchanges with one upstream."""
    complete = {"methods": ["POST"], "upstream": "api"}
    bridged = {"upstream_path": "/v1/complete", "bridge": "messages"}
    raw: dict[str, Any] = {
        "server": {"port": 0, "drain": drain},
        "upstreams": {"api": {"base_url": url, "speaks": ["2023-06-01"]}},
        "models": {"claude-*": "claude-haiku-4-5"},
        "limits": {"event": EVENT_LIMIT},
        "routes": [
            {"path": "/v1/complete", **complete},
            {"name": "bridged", "path": "/bridged/v1/complete", **complete, **bridged},
            {"path": "/{rest:path}", "upstream": "api"},
        ],
    }
    if timeouts:
        raw["upstreams"]["api"]["timeouts"] = timeouts
    return config.parse(json.dumps(raw), "test", {})


class ScriptedUpstream:
    """An upstream that runs one script per connection, and behaves well when no script is left."""

    def __init__(self) -> None:
        self.scripts: deque[Play] = deque()
        self.good = b""
        """Its answer when it behaves well."""
        self.connections = 0
        self.requests = 0
        self.open = 0

    async def play(self, side: Side) -> None:
        self.connections += 1
        self.open += 1
        try:
            script = self.scripts.popleft() if self.scripts else self.behave
            await script(side)
        finally:
            await side.__aexit__()  # before it is counted as closed
            self.open -= 1

    async def behave(self, side: Side) -> None:
        """Answer every request well."""
        while True:
            await self.answer(side)

    async def answer(self, side: Side, answer: bytes = b"") -> None:
        """Answer one request, by default with the good answer."""
        await side.request()
        self.requests += 1
        await side.say(answer or self.good)


class Counted(Exchange):
    """An exchange that is counted for as long as it is in memory, with all that it refers to."""

    in_memory: ClassVar[WeakSet[Exchange]] = WeakSet()

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.in_memory.add(self)


class Proxy:
    """A running proxy in front of a scripted upstream."""

    def __init__(self, upstream: ScriptedUpstream, settings: config.Config) -> None:
        self.app = App(settings, self._connect)
        self.url = ""
        self.upstream = upstream
        self.before: dict[str, int] = {}
        """What was open before anything happened."""

    def _connect(self, settings: config.Upstream) -> Upstream:
        self._called = Upstream(settings)
        return self._called

    async def ask(self, request: bytes) -> bytes:
        """Send a request on a new connection; returns all that arrives before it is closed."""
        async with await self.client(request) as client:
            return await client.rest()

    async def client(self, request: bytes) -> Side:
        """A new connection on which this request has been sent."""
        client = await connect(self.url)
        await client.say(request)
        return client

    @property
    def pool(self) -> Any:
        """The connections to the upstream."""
        return self._called._pool

    def open_now(self) -> dict[str, int]:
        """The numbers of things that are open now."""
        return {
            "exchanges": len(self.app.exchanges),
            "connections": len(self.pool._all),
            "their other ends": self.upstream.open,
            "tasks": len(asyncio.all_tasks()),
            "files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        }

    @asynccontextmanager
    async def nothing_left(self, *, but_in_memory: bool = False) -> AsyncIterator[None]:
        """Check that a block leaves nothing open but free connections, once all has been closed.

        And nothing of an exchange in memory, but where the test itself keeps it.
        """
        Counted.in_memory.clear()  # tests before this one may have kept theirs
        yield
        await until(lambda: len(self.pool._free) == len(self.pool._all))
        self.close_free()
        with suppress(TimeoutError):
            await until(lambda: self.open_now() == self.before)
        assert self.open_now() == self.before
        with suppress(TimeoutError):
            await until(lambda: but_in_memory or not Counted.in_memory)
        assert but_in_memory or not list(Counted.in_memory)

    def close_free(self) -> None:
        """Close the free connections, so that the next call opens one."""
        for connection in tuple(self.pool._free):
            connection.close()


@asynccontextmanager
async def proxied(
    upstream: ScriptedUpstream, url: str, timeouts: dict[str, float], drain: float = 0
) -> AsyncIterator[Proxy]:
    """A running proxy in front of what is served at ``url``."""
    proxy = Proxy(upstream, configuration(url, timeouts, drain))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(relay, "Exchange", Counted)
        async with running(proxy.app) as proxy.url:
            proxy.before = proxy.open_now()
            yield proxy


@asynccontextmanager
async def new_proxy(drain: float = 0, **timeouts: float) -> AsyncIterator[Proxy]:
    """A running proxy in front of a new upstream."""
    upstream = ScriptedUpstream()
    async with (
        raw_upstream(upstream.play) as url,
        proxied(upstream, url, timeouts, drain) as proxy,
    ):
        yield proxy


Proxies = dict[str, Proxy]


def paused(proxy: Proxy) -> bool:
    """Whether an upstream is made to wait."""
    return any(
        connection._answer is not None
        and connection._answer._paused
        and not connection._transport.is_reading()
        for connection in proxy.pool._all
    )
