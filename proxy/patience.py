"""How long a client may take nothing of what waits for it, before it is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .sockets import untaken

ENOUGH = 64 << 10
"""How much a client must take to be given its time once more, in bytes."""


class Patience:
    """The time of a client that is behind: ``seconds``, and again as long as it keeps taking.

    Then ``give_up`` is called. The system is asked, for the transport hears of what was taken late.
    """

    __slots__ = ("_give_up", "_seconds", "_timer", "_transport", "_waits")

    def __init__(
        self, transport: asyncio.Transport, seconds: float, give_up: Callable[[], object]
    ) -> None:
        self._transport = transport
        self._seconds = seconds
        self._give_up = give_up
        self._waits = self._waiting()
        self._begin()

    def end(self) -> None:
        """Have nobody given up any more."""
        self._timer.cancel()

    def _begin(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)

    def _waiting(self) -> int:
        """What the client has yet to take, in bytes."""
        in_system = untaken(self._transport.get_extra_info("socket"))
        return self._transport.get_write_buffer_size() + in_system

    def _look(self) -> None:
        before, self._waits = self._waits, self._waiting()
        if before - self._waits < ENOUGH:
            self._give_up()
        else:
            self._begin()
