"""Streams under ``/-/`` that are counted, so that only so many are held at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Counted(StreamingResponse):
    """One of ``those`` like it, from its start until its reader has all of it or has left.

    It has ``parts`` for its body, and no header fields but ``fields``.
    """

    def __init__(
        self, those: set[Counted], parts: AsyncIterator[bytes], fields: Mapping[str, str]
    ) -> None:
        super().__init__(parts, headers=fields)
        self._those = those
        those.add(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._those.discard(self)
