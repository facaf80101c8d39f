"""An upstream's stream on its way to the client: each part is translated and written as it arrives.

Nobody waits for a task to wake: what reads the upstream hands a part over, and is told what to wait
for before the next, which mostly is nothing. So the client's pace is the upstream's, and the others
have their turn between the parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import chain

from .answer import Enough, Take
from .client import Client
from .translation import Translation

IN_A_TURN = 8 << 10
"""How much of a stream is translated at a time, in bytes, before others have their turn: a read can
be thirty times as much, and the shortest events take longest."""


class Stream:
    """What the parts of an upstream's stream become, on its way to the client.

    ``begin`` sends the head, and is told whether a part of the body follows it. Thousands may be
    open at once, so this is as small as it can be.
    """

    __slots__ = ("_begin", "_client", "_translation")

    def __init__(
        self, client: Client, translation: Translation, begin: Callable[[bool], Awaitable[None]]
    ) -> None:
        self._client = client
        self._translation = translation
        self._begin = begin

    def take(self, part: bytes) -> Awaitable[None] | None:
        """Translate and write ``part``; returns what to wait for before the next."""
        if len(part) > IN_A_TURN:
            return self._take_in_turns(part)
        return self._write(self._translation.feed(part))

    def enough(self) -> bool:
        """Whether the client has all that it is owed."""
        return self._translation.ended

    async def _take_in_turns(self, part: bytes) -> None:
        starts = range(0, len(part), IN_A_TURN)
        for start in starts:
            piece, more = part[start : start + IN_A_TURN], start != starts[-1]
            if (wait := self._write(self._translation.feed_piece(piece, more=more))) is not None:
                await wait
            if self.enough():
                return
            await asyncio.sleep(0)

    def _write(self, blocks: Iterable[bytes]) -> Awaitable[None] | None:
        if self._client.started:
            return self._client.write_all(blocks)
        return self._write_first(iter(blocks))

    async def _write_first(self, blocks: Iterator[bytes]) -> None:
        first = None
        try:
            first = next(blocks, None)
        finally:  # what fails after the first event ends a stream, though it came with it
            if self._translation.started:
                await self._begin(first is not None)
        if first is not None and (wait := self._client.write_all(chain((first,), blocks))):
            await wait


def in_turns(pieces: Callable[[bytes], Iterator[bytes]], take: Take, enough: Enough) -> Take:
    """Take each of the ``pieces`` of a part by itself, until it is ``enough``.

    There may be a thousand times as much in them, and others want their turn.
    """

    async def take_pieces(part: bytes) -> None:
        for piece in pieces(part):
            if (wait := take(piece)) is not None:
                await wait
            if enough():
                return
            await asyncio.sleep(0)

    return take_pieces
