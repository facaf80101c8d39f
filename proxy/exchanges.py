"""The exchanges under way: bounded in number, and ended together when a drain is over."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from .errors import Busy, Draining
from .interruption import Interruptible


class OpenExchanges:
    """At most ``limit`` exchanges at a time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[Interruptible] = set()

    def one(self) -> Interruptible:
        """One more exchange, for a ``with`` block that can be interrupted; raises Busy there."""
        return _One(self._open, self._limit)

    def cut(self) -> None:
        """End those that are still open: each finishes as failed, in its client's dialect."""
        for work in tuple(self._open):
            work.interrupt(Draining())


class _One(Interruptible):
    __slots__ = ("_limit", "_open")

    def __init__(self, others: set[Interruptible], limit: int) -> None:
        super().__init__()
        self._open = others
        self._limit = limit

    def __enter__(self) -> Self:
        if len(self._open) >= self._limit:
            raise Busy("too many exchanges are under way, try again shortly")
        self._open.add(self)
        return super().__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.discard(self)
        super().__exit__(exc_type, exc, traceback)
