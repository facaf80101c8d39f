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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Stream until the reader has left, for which our server has a word.

        The library's task that waits for it leaves a circle behind, with the last part in it, which
        only the garbage collector frees.
        """
        work = Interruptible()
        connection = scope.get("extensions", {}).get(CONNECTION)
        try:
            # Closed here: whoever counts on the end of what is cut would else wait for it.
            async with aclosing(self._parts):
                with work:
                    if connection is not None:
                        connection.when_left(work.interrupt)
                    await self.stream_response(send)
        except (ClientLeft, RequestError) as error:
            error.__traceback__ = error.__context__ = None  # which lead back here: a circle
        finally:
            self._those.discard(self)
