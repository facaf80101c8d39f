"""Threads for what may wait for the system for ever: the end of the process waits for none."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class DaemonThread:
    """A thread that does one thing after the other, until it is told to stop.

    Raises OSError where there is none to be had.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[_Asked | None] = SimpleQueue()
        try:
            threading.Thread(target=_do_all, args=(self._asked,), daemon=True).start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error

    async def do(self, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises. It is done even where nobody waits for that any more."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._asked.put(_Asked(work, loop, done))
        try:
            return await done
        finally:
            del done  # or what it failed with holds it: a circle

    def stop(self) -> None:
        """End, once everything is done that was asked for."""
        self._asked.put(None)


class _Asked(NamedTuple):
    work: Callable[[], object]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]


def _do_all(asked: SimpleQueue[_Asked | None]) -> None:
    while (one := asked.get()) is not None:
        _do(*one)
        del one  # or it would be kept until the next


def _do(
    work: Callable[[], object], loop: asyncio.AbstractEventLoop, done: asyncio.Future[object]
) -> None:
    returned: object = None
    failure: Exception | None = None
    try:
        returned = work()
    except Exception as error:  # noqa: BLE001  (or whoever waits would never hear of it)
        failure = error.with_traceback(None)  # or it holds this frame, which holds it: a circle

    def tell() -> None:
        if done.done():  # nobody waits any more
            return
        if failure is None:
            done.set_result(returned)
        else:
            done.set_exception(failure)

    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(tell)
