"""Streamed responses under ``/-/`` that are counted, so that their number can be limited."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..core.errors import ProxyError
from ..exchange.extensions import CONNECTION, ClientLeft
from ..runtime.interruption import Interruptible


class Counted(StreamingResponse):
    """A response of ``parts`` and header ``fields``, in the set ``open_ones`` until its end.

    It ends once the client has all of it, or has left.
    """

    def __init__(
        self, open_ones: set[Counted], parts: AsyncGenerator[bytes], fields: Mapping[str, str]
    ) -> None:
        super().__init__(parts, headers=fields)
        self._parts = parts
        self._open_ones = open_ones
        open_ones.add(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Stream until the client has left, which our server reports by an extension.

        Starlette's own task, which waits for that, leaves a reference cycle behind with the last
        part in it, and only the garbage collector would free it.
        """
        work = Interruptible()
        connection = scope.get("extensions", {}).get(CONNECTION)
        try:
            # Closed here: the generator's clean-up must not wait for the garbage collector.
            async with aclosing(self._parts):
                with work:
                    if connection is not None:
                        connection.when_left(work.interrupt)
                    await self.stream_response(send)
        except (ClientLeft, ProxyError) as error:
            error.__traceback__ = error.__context__ = None  # reference cycles
        finally:
            self._open_ones.discard(self)
