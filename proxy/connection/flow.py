"""Flow control between a client and the application, which takes no memory while nobody waits.

An asyncio.Event keeps a queue of waiters, which takes 700 bytes even when it is empty, and each of
thousands of open streams would have two of them.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl


class Signal:
    """An asyncio.Event without a queue."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: tuple[asyncio.Future[None], ...] = ()

    def set(self) -> None:
        """Wake all who wait; from now on until clear is called, wait returns at once."""
        self._is_set = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Undo set."""
        self._is_set = False

    async def wait(self) -> None:
        """Return once it is set."""
        if self._is_set:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting += (waiter,)
        try:
            await waiter
        finally:
            self._waiting = tuple(other for other in self._waiting if other is not waiter)


class Flow(FlowControl):
    """uvicorn's flow control of one client: whether it is read from, and keeps up with writing.

    Reading is paused for either of two reasons: the application does not want more of a body yet,
    or so much waits to be parsed that the connection is ``full``.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = False
        """Whether reading from the transport is paused, for whichever reason."""
        self.write_paused = False
        self._full = False
        self._reading_wanted = True
        self._writable = Signal()

    @property
    def full(self) -> bool:
        """Whether so much waits to be parsed that no more is read."""
        return self._full

    @full.setter
    def full(self, full: bool) -> None:
        self._full = full
        self._apply()

    def pause_reading(self) -> None:
        """Stop reading: the application does not want more of the body yet."""
        self._reading_wanted = False
        self._apply()

    def resume_reading(self) -> None:
        """Read on, unless it is full."""
        self._reading_wanted = True
        self._apply()

    def _apply(self) -> None:
        paused = self._full or not self._reading_wanted
        if paused is self.read_paused:
            return
        self.read_paused = paused
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    async def drain(self) -> None:
        """Wait until the client has taken most of what waits for it."""
        if self.write_paused:
            await self._writable.wait()

    def pause_writing(self) -> None:
        """Let drain wait from now on."""
        self.write_paused = True
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let all who wait in drain go on."""
        self.write_paused = False
        self._writable.set()
