"""The exchanges under way: bounded in number, and ended together when a drain is over."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from ..core.errors import Busy, Draining
from ..observe.record import Record
from ..runtime.interruption import Interruptible


class OpenExchanges:
    """At most ``limit`` exchanges at a time.

    The limit may be changed while some are open; none is ended because it falls.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: set[_One] = set()
        self._over = False

    def __len__(self) -> int:
        return len(self._open)

    @property
    def streams(self) -> int:
        """How many of them are streams."""
        return sum(1 for one in self._open if one.record.streams)

    def one(self, record: Record) -> Interruptible:
        """One more exchange, as a ``with`` block that can be interrupted.

        ``record`` is what is known of it so far. To enter the block raises Busy at the limit, and
        Draining once all were cut.
        """
        return _One(self, record)

    def cut(self) -> None:
        """End those that are still open, and let none begin any more.

        Each ends with an error in its client's dialect.
        """
        self._over = True
        for work in tuple(self._open):
            work.interrupt(Draining())

    def begin(self, work: _One) -> None:
        """Count ``work`` in; raises Busy and Draining."""
        if self._over:
            raise Draining
        if len(self._open) >= self.limit:
            raise Busy("too many exchanges are under way, try again shortly")
        self._open.add(work)

    def end(self, work: _One) -> None:
        """Count ``work`` out."""
        self._open.discard(work)


class _One(Interruptible):
    __slots__ = ("_all", "record")

    def __init__(self, exchanges: OpenExchanges, record: Record) -> None:
        super().__init__()
        self._all = exchanges
        self.record = record

    def __enter__(self) -> Self:
        self._all.begin(self)
        return super().__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._all.end(self)
        super().__exit__(exc_type, exc, traceback)
