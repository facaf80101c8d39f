"""The server's side of one client connection: uvicorn's, and what it has no word for.

That the client left is told at once, and one that takes nothing is left after a while: it may
hold an exchange, and with it a call of the upstream, for only so long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .client import CONNECTION, ClientLeft, ClientStalled

PATIENCE = 120.0
"""Seconds that a client may take nothing of what waits for it."""

WORTH_A_COPY = 16 << 10
"""Up to how many bytes copying a part costs less than handing the transport three."""


class Protocol(HttpToolsProtocol):
    """One connection to a client; see client.Connection."""

    _tell: Callable[[ClientLeft], None] | None = None
    _stalled: asyncio.TimerHandle | None = None
    _gone: ClientLeft | None = None

    def when_left(self, tell: Callable[[ClientLeft], None]) -> None:
        if self._gone is not None:
            tell(self._gone)
        else:
            self._tell = tell

    def write(self, data: bytes) -> bool:
        """Write a part of a chunked body, which most are, without the standard's detour.

        While another request waits in the pipeline, ``cycle`` is that one's, and has not begun.
        """
        cycle = self.cycle
        if not cycle.chunked_encoding or cycle.disconnected or self.flow.write_paused:
            return False
        if len(data) < WORTH_A_COPY:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self.transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(dict[str, Any], self.scope)["extensions"] = {CONNECTION: self}

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
        self._gone = self._gone or ClientLeft()
        if self._tell is not None:
            self._tell(self._gone)
            self._tell = None

    def _stop_waiting(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _give_up(self) -> None:
        self._gone = ClientStalled()
        self.transport.abort()
