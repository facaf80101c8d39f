"""What has arrived at one connection, read in turns: one client that sends much holds up no other.

The event loop hands over as much as a socket holds, which may be thousands of requests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from .flow import Flow
from .pipeline import Pipeline
from .terms import PIECE, SLICE

_NOTHING = memoryview(b"")


class Intake:
    """Has ``read`` called with what has arrived, at most a PIECE at a time.

    Reading rests while the ``pipeline`` is full, and while it rests no more arrives: ``flow`` is
    full then, too. What ``read`` raises goes on, and nothing is read after it.
    """

    __slots__ = ("_flow", "_next_turn", "_pipeline", "_read", "_transport", "_unread")

    def __init__(
        self,
        transport: asyncio.Transport,
        flow: Flow,
        pipeline: Pipeline,
        read: Callable[[bytes], None],
    ) -> None:
        self._transport = transport
        self._flow = flow
        self._pipeline = pipeline
        self._read = read
        self._unread = _NOTHING
        self._next_turn: asyncio.Handle | None = None
        """In which reading goes on, though nothing more has arrived."""

    def __len__(self) -> int:
        """How much is yet to be read, in bytes."""
        return len(self._unread)

    def take(self, data: bytes) -> None:
        """Read what has arrived; some of much is left to later turns of the event loop."""
        if len(data) <= PIECE:
            self._read(data)
        else:
            self._unread = memoryview(data)
            self._read_on()

    def resume(self) -> None:
        """Go on, in the next turn, where reading rests because the pipeline was full."""
        if self._flow.full and self._next_turn is None:
            self._next_turn = asyncio.get_running_loop().call_soon(self._read_on)

    def drop(self) -> None:
        """Throw away what is yet to be read, so that more arrives."""
        self._unread = _NOTHING
        self._flow.full = False

    def stop(self) -> None:
        """Read no more, nor keep in memory what ``read`` belongs to."""
        if self._next_turn is not None:
            self._next_turn.cancel()
        self._read = _ignore

    def _read_on(self) -> None:
        self._next_turn = None
        began = time.monotonic()
        while self._unread and not self._pipeline.full and not self._transport.is_closing():
            piece, self._unread = bytes(self._unread[:PIECE]), self._unread[PIECE:]
            try:
                self._read(piece)
            except BaseException:  # a fault of ours, and the rest would lack a part
                self._transport.abort()  # as the event loop does for what arrives, not for turns
                raise
            if time.monotonic() - began > SLICE:
                self._next_turn = asyncio.get_running_loop().call_soon(self._read_on)
                break
        if not self._unread:
            self._unread = _NOTHING  # an empty view, too, keeps all that was read in memory
        self._flow.full = bool(self._unread) or self._pipeline.full


def _ignore(_: bytes) -> None:
    """Read nothing."""
