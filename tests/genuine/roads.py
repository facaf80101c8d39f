"""Both roads that an old client's call can take, on this machine, configured as shipped.

native: the upstream still serves ``/v1/complete``. bridge: it serves ``/v1/messages`` only.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genuine.scenarios import LINGER
from proxy import config
from proxy.app import App
from proxy.sandbox import sandbox
from proxy.server.server import running

CONFIGS = Path(__file__).parents[2] / "config"


class Upstream:
    """The sandbox, which also counts what it is asked; safe to look at from any thread."""

    def __init__(self, app: ASGIApp) -> None:
        self.paths: list[str] = []
        """What was asked, in the order of asking."""
        self._app = app
        self._open = 0
        self._changed = threading.Condition()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self.paths.append(scope["path"])
        self._count(+1)
        try:
            await _lingering(self._app, scope, receive, send)
        finally:
            self._count(-1)

    def falls_idle(self, seconds: float = 5) -> bool:
        """Whether no exchange is open any more, at the latest after some seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open == 0, seconds)

    def _count(self, difference: int) -> None:
        with self._changed:
            self._open += difference
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Road:
    """A proxy's address, and the upstream behind it."""

    address: str
    upstream: Upstream


@contextmanager
def opened() -> Iterator[dict[str, Road]]:
    """Both roads by name, served in a thread with an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="roads")
    thread.start()
    servers = AsyncExitStack()
    try:
        yield asyncio.run_coroutine_threadsafe(_open(servers), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(servers.aclose(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _open(servers: AsyncExitStack) -> dict[str, Road]:
    async def road(app: ASGIApp, file: str, variable: str) -> Road:
        upstream = Upstream(app)
        environ = {variable: await servers.enter_async_context(running(upstream)), "PORT": "0"}
        settings = config.parse((CONFIGS / file).read_bytes(), file, environ)
        return Road(await servers.enter_async_context(running(App(settings))), upstream)

    api = sandbox.build(delay=0)
    return {
        "native": await road(api, "completions.yaml", "COMPLETIONS_URL"),
        "bridge": await road(_without_complete(api), "proxy.yaml", "ANTHROPIC_BASE_URL"),
    }


def _without_complete(app: ASGIApp) -> ASGIApp:
    """The API after ``/v1/complete`` was switched off."""
    told = {"type": "error", "error": {"type": "not_found_error", "message": "Not found"}}

    async def today(scope: Scope, receive: Receive, send: Send) -> None:
        gone = scope["type"] == "http" and scope["path"] == "/v1/complete"
        await (JSONResponse(told, 404) if gone else app)(scope, receive, send)

    return today


async def _lingering(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """The app, which does not end its answer to a question with ``LINGER`` in it."""
    lingers = False

    async def read() -> Message:
        nonlocal lingers
        message = await receive()
        lingers = lingers or LINGER.encode() in message.get("body", b"")
        return message

    async def write(message: Message) -> None:
        if lingers and message["type"] == "http.response.body" and not message["more_body"]:
            await asyncio.Event().wait()  # the sandbox gives up when it is left
        await send(message)

    await app(scope, read, write)
