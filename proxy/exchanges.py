"""The exchanges under way: bounded in number, and ended together when a drain is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import Busy, Draining
from .interruption import Interruptible


class OpenExchanges:
    """At most ``limit`` exchanges at a time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[Interruptible] = set()

    @contextmanager
    def one(self) -> Iterator[Interruptible]:
        """One more exchange, which can be interrupted; raises Busy at the limit."""
        if len(self._open) >= self._limit:
            raise Busy("too many exchanges are under way, try again shortly")
        work = Interruptible()
        self._open.add(work)
        try:
            with work:
                yield work
        finally:
            self._open.discard(work)

    def cut(self) -> None:
        """End those that are still open: each finishes as failed, in its client's dialect."""
        for work in tuple(self._open):
            work.interrupt(Draining())
