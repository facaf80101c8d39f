"""Work that may be interrupted from outside, for a cause.

Cancelling a task says that it should stop, not why. Here the cause comes out as an exception
where the work was begun, and cancellations that others asked for pass through.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Interruptible:
    """A ``with`` block that raises the cause with which it is interrupted."""

    __slots__ = ("_cause", "_task")

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._cause: Exception | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        return self

    def interrupt(self, cause: Exception) -> None:
        """Stop the work, unless it is over or was interrupted before."""
        if self._task is not None and self._cause is None:
            self._cause = cause
            self._task.cancel()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if task is not None and self._cause is not None:
            task.uncancel()
            if exc_type is asyncio.CancelledError:
                raise self._cause from None
