"""The server's side of one client connection: uvicorn's, and a bound on what it would wait for.

A client that takes nothing may hold an exchange, and with it a call of the upstream, for only so
long.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .client import STALLED

PATIENCE = 120.0
"""Seconds that a client may take nothing of what waits for it."""


class Protocol(HttpToolsProtocol):
    """One connection to a client."""

    _stalled: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """The client does not keep up: it gets its time, and whoever writes to it waits."""
        super().pause_writing()
        self._stalled = self.loop.call_later(PATIENCE, self._give_up)

    def resume_writing(self) -> None:
        """The client has taken what was waiting."""
        self._stop_waiting()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _give_up(self) -> None:
        cast(dict[str, Any], self.cycle.scope)[STALLED] = True
        self.transport.abort()
