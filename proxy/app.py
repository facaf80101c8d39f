"""Puts the rooms together: a configuration in, an ASGI application out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from . import admin
from .config import Config
from .config import Upstream as UpstreamSettings
from .learning import learned
from .relay import Relay
from .upstream import Upstream


class App:
    """The proxy as an ASGI application. It works between lifespan's start-up and shut-down."""

    def __init__(
        self, config: Config, connect: Callable[[UpstreamSettings], Upstream] = Upstream
    ) -> None:
        self.config = config
        self.ready = False
        self._connect = connect
        self._upstreams: dict[str, Upstream] = {}
        self._relay = Relay(config, self._upstreams)
        self._admin = admin.build(self, enabled=config.admin.enabled)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["raw_path"].startswith(admin.PREFIX):
            await self._admin(scope, receive, send)
        else:
            await self._relay(scope, receive, send)

    def drain(self) -> None:
        """Take no more work; exchanges that are still open after ``server.drain`` are cut."""
        self.ready = False
        loop = asyncio.get_running_loop()
        loop.call_later(self.config.server.drain, self._relay.exchanges.cut)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        for settings in self.config.upstreams.values():
            self._upstreams[settings.name] = self._connect(settings)
        if self.config.models_from_upstream:
            self._relay.learned |= await learned(self.config, self._upstreams)
        self.ready = True
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.ready = False
        for upstream in self._upstreams.values():
            await upstream.close()
        await send({"type": "lifespan.shutdown.complete"})


def build(config: Config) -> App:
    """The application for ``config``."""
    return App(config)
