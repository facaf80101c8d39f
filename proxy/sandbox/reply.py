"""A response that may be slow, break, or never end. It is over as soon as its client has left."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import Literal

from starlette.types import Receive, Scope, Send

End = Literal["whole", "cut", "hang"]


@dataclass(frozen=True, slots=True)
class Reply:
    """The response, as an ASGI application."""

    headers: dict[str, str]
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    """The pieces of the body, each after the seconds to wait for it."""
    wait: float = 0
    """Seconds before the head."""
    end: End = "whole"

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write(send))
            leaving = group.create_task(_left(receive))
            writing.add_done_callback(lambda _: leaving.cancel())
            leaving.add_done_callback(lambda _: writing.cancel())

    async def _write(self, send: Send) -> None:
        await _pause(self.wait)
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for seconds, data in self.parts:
            await _pause(seconds)
            await send({"type": "http.response.body", "body": data, "more_body": True})
        if self.end == "hang":
            await _pause(math.inf)
        if self.end == "whole":  # a server drops the connection of a response left open
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _pause(seconds: float) -> None:
    if seconds == math.inf:
        await asyncio.Event().wait()
    elif seconds:
        await asyncio.sleep(seconds)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
