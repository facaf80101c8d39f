"""How long a client may take nothing of what waits for it before its connection is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..runtime.sockets import unacknowledged

ENOUGH = 64 << 10
"""How much a client must take to be given the same time again, in bytes."""


class Patience:
    """Calls ``give_up`` once a client has taken less than ENOUGH within ``seconds``.

    What the client has taken is asked of the system, for the transport learns of it late.
    """

    __slots__ = ("_give_up", "_seconds", "_timer", "_transport", "_waits")

    def __init__(
        self, transport: asyncio.Transport, seconds: float, give_up: Callable[[], object]
    ) -> None:
        self._transport = transport
        self._seconds = seconds
        self._give_up = give_up
        self._waits = self._waiting()
        self._set_timer()

    def end(self) -> None:
        """Do not call ``give_up`` any more."""
        self._timer.cancel()

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._on_timer)

    def _waiting(self) -> int:
        """What the client has yet to take, in bytes."""
        in_system = unacknowledged(self._transport.get_extra_info("socket"))
        return self._transport.get_write_buffer_size() + in_system

    def _on_timer(self) -> None:
        before, self._waits = self._waits, self._waiting()
        if before - self._waits < ENOUGH:
            self._give_up()
        else:
            self._set_timer()
