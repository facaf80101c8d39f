"""One timer for a deadline that moves all the time: one for each short wait would cost more."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

NEVER = math.inf


class Alarm:
    """Calls ``ring`` when ``due`` has come, by the event loop's clock.

    ``due`` may be set at any time, and counts from the next ``arm`` on; to put it off none is
    needed, for a timer that fires too early is only set anew. Before ``ring`` is called it is NEVER
    again; what ``ring`` sets it to counts at once.
    """

    __slots__ = ("_fires_at", "_loop", "_ring", "_timer", "due")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self.due = NEVER
        self._loop = loop
        self._ring: Callable[[], None] | None = ring
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = NEVER

    def arm(self) -> None:
        """Set the timer for ``due``, unless it fires before; for NEVER, none is left."""
        if self._fires_at <= self.due < NEVER:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fires_at = self.due
        if self.due < NEVER:
            self._timer = self._loop.call_at(self.due, self._fired)

    def stop(self) -> None:
        """Do not call ``ring`` any more, nor keep in memory what it belongs to."""
        self._ring = None
        self.due = NEVER
        self.arm()

    def _fired(self) -> None:
        self._timer = None
        self._fires_at = NEVER
        if self.due <= self._loop.time() and self._ring is not None:
            self.due = NEVER
            self._ring()
        self.arm()
