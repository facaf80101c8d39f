"""A ping in every long silence of a stream, for clients whose route asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .client import Client

SILENCE = 15.0
"""Silent seconds after which the old API sent a ping."""


class Keepalive:
    """Within it, a ping is written to ``client`` whenever nothing else was for a while.

    It never goes before what already waits for the client: that may be the end of the stream, in
    which some read the last two events as a pair.
    """

    def __init__(self, client: Client, ping: Callable[[], bytes]) -> None:
        self._client = client
        self._ping = ping
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        self._timer = self._loop.call_later(SILENCE, self._on_timer)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._client.drop_ping()

    def _on_timer(self) -> None:
        now = self._loop.time()
        due = self._client.last_write + SILENCE
        if now < due:
            self._timer = self._loop.call_at(due, self._on_timer)
            return
        self._timer = self._loop.call_later(SILENCE, self._on_timer)
        if self._client.started and not self._client.behind:
            self._client.ping(self._ping())
