"""Streams under ``/-/`` that are counted, so that only so many are held at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .client import CONNECTION, ClientLeft
from .errors import RequestError
from .interruption import Interruptible


class Counted(StreamingResponse):
    """One of ``those`` like it, from its start until its reader has all of it or has left.

    It has ``parts`` for its body, and no header fields but ``fields``.
    """

    def __init__(
        self, those: set[Counted], parts: AsyncGenerator[bytes], fields: Mapping[str, str]
    ) -> None:
        super().__init__(parts, headers=fields)
        self._parts = parts
        self._those = those
        those.add(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # Now: whoever counts on the end of what is cut would else wait for it.
            async with aclosing(self._parts):
                if CONNECTION in scope.get("extensions", {}):
                    await self._stream_until_left(scope, send)
                else:
                    await super().__call__(scope, receive, send)
        finally:
            self._those.discard(self)

    async def _stream_until_left(self, scope: Scope, send: Send) -> None:
        """The same by our server's word for it that the reader left.

        The library's task that waits for it leaves a circle behind, with the last part in it, which
        only the garbage collector frees.
        """
        work = Interruptible()
        try:
            with work:
                scope["extensions"][CONNECTION].when_left(work.interrupt)
                await self.stream_response(send)
        except (ClientLeft, RequestError) as error:
            error.__traceback__ = error.__context__ = None  # which lead back here: a circle
