"""An upstream's stream on its way to the client: each part is translated and written as it arrives.

No task is woken for a part: ``Answer.forward`` passes it to ``Stream.take``, which returns what to
await before the next, mostly nothing. That carries the client's back-pressure to the upstream, and
gives others a turn within large parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import chain

from ..translation.stream import StreamTranslation
from ..upstream.answer import Enough, Take, joined
from .client import Client

IN_A_TURN = 8 << 10
"""How much of a stream is translated in one turn of the event loop, in bytes: a read can be thirty
times as much, and the shorter its events are, the longer it takes."""


class Stream:
    """Translates the parts of an upstream's stream and writes them to the client.

    ``begin`` sends the head; its argument is whether a part of the body follows at once.
    """

    __slots__ = ("_begin", "_client", "_events")

    def __init__(
        self,
        client: Client,
        events: StreamTranslation,
        begin: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._client = client
        self._events = events
        self._begin = begin

    def take(self, parts: Sequence[bytes]) -> Awaitable[None] | None:
        """Translate and write ``parts``; returns what to await before more, None for nothing."""
        part = joined(parts)
        if len(part) > IN_A_TURN:
            return self._take_in_turns(part)
        return self._write(self._events.feed(part))

    def enough(self) -> bool:
        """Whether the client has all that it is owed."""
        return self._events.ended

    async def _take_in_turns(self, part: bytes) -> None:
        starts = range(0, len(part), IN_A_TURN)
        for start in starts:
            piece, more = part[start : start + IN_A_TURN], start != starts[-1]
            if (wait := self._write(self._events.feed_piece(piece, more=more))) is not None:
                await wait
            if self.enough():
                return
            await asyncio.sleep(0)

    def _write(self, events: Iterable[bytes]) -> Awaitable[None] | None:
        if self._client.started:
            return self._client.write_all(events)
        return self._write_first(iter(events))

    async def _write_first(self, events: Iterator[bytes]) -> None:
        first = None
        try:
            first = next(events, None)
        finally:  # if the first event was there, a failure right after it must end a begun stream
            if self._events.started:
                await self._begin(first is not None)
        if first is not None and (wait := self._client.write_all(chain((first,), events))):
            await wait


def in_turns(pieces: Callable[[bytes], Iterator[bytes]], take: Take, enough: Enough) -> Take:
    """A Take for parts that are split into ``pieces``, each taken in a turn of its own.

    Decompressed, a part may be a thousand times as large.
    """

    async def take_pieces(parts: Sequence[bytes]) -> None:
        for piece in pieces(joined(parts)):
            if (wait := take((piece,))) is not None:
                await wait
            if enough():
                return
            await asyncio.sleep(0)

    return take_pieces
