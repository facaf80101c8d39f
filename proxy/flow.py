"""Waiting between a client and the application, at the price of nothing while nobody waits.

The library's events keep a queue for those who wait, which takes 700 bytes, and each of thousands
of open streams would have two of them.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl


class Signal:
    """An event as asyncio has it."""

    __slots__ = ("_given", "_waiting")

    def __init__(self) -> None:
        self._given = False
        self._waiting: tuple[asyncio.Future[None], ...] = ()

    def set(self) -> None:
        """Let everybody go on who waits, or will before it is cleared."""
        self._given = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Let nobody go on any more."""
        self._given = False

    async def wait(self) -> None:
        """Return once it is set."""
        if self._given:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting += (waiter,)
        try:
            await waiter
        finally:
            self._waiting = tuple(other for other in self._waiting if other is not waiter)


class Flow(FlowControl):
    """uvicorn's, for one client: whether what it sends is read, and what it is sent is taken."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = False
        """Whether nothing is read."""
        self.write_paused = False
        self._full = False
        self._wanted = True
        self._taken = Signal()

    @property
    def full(self) -> bool:
        """Whether so much waits that no more is read, whoever wants to read on."""
        return self._full

    @full.setter
    def full(self, full: bool) -> None:
        self._full = full
        self._heed()

    def pause_reading(self) -> None:
        """Read no more until somebody wants to."""
        self._wanted = False
        self._heed()

    def resume_reading(self) -> None:
        """Read on, unless enough waits already."""
        self._wanted = True
        self._heed()

    def _heed(self) -> None:
        paused = self._full or not self._wanted
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
            await self._taken.wait()

    def pause_writing(self) -> None:
        """Have everybody wait who wants to write."""
        self.write_paused = True
        self._taken.clear()

    def resume_writing(self) -> None:
        """Let them go on."""
        self.write_paused = False
        self._taken.set()
