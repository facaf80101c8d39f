"""Threads for calls that may block for ever: the end of the process waits for none of them."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


def started(work: Callable[[], T]) -> Future[T]:
    """A call of ``work`` that is under way in a thread of its own, and cannot be cancelled.

    It fails with an OSError where the system has no thread left.
    """
    call: Future[T] = Future()
    call.set_running_or_notify_cancel()
    try:
        threading.Thread(target=_run, args=(work, call), daemon=True).start()
    except RuntimeError:
        call.set_exception(OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
    return call


def _run(work: Callable[[], T], call: Future[T]) -> None:
    try:
        call.set_result(work())
    except Exception as error:  # noqa: BLE001  (raised to whoever waits)
        call.set_exception(error)
    finally:
        del call  # its exception's traceback holds this frame: a cycle


class DaemonThread:
    """A thread that makes one call after the other, until it is stopped.

    Raises OSError where the system has no thread left.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        try:
            threading.Thread(target=_do_all, args=(self._jobs,), daemon=True).start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error

    async def do(self, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises. It is called even if whoever waits for it gives up."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(work, loop, done))
        try:
            return await done
        finally:
            del done  # its exception's traceback holds this frame: a cycle

    def stop(self) -> None:
        """End the thread after the calls that were asked for so far."""
        self._jobs.put(None)


class _Job(NamedTuple):
    work: Callable[[], object]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]


def _do_all(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        _do(*job)
        del job  # or it would stay in memory until the next


def _do(
    work: Callable[[], object], loop: asyncio.AbstractEventLoop, done: asyncio.Future[object]
) -> None:
    returned: object = None
    failure: Exception | None = None
    try:
        returned = work()
    except Exception as error:  # noqa: BLE001  (raised to whoever waits)
        failure = error.with_traceback(None)  # which holds this frame: a cycle

    def settle() -> None:
        if done.done():  # nobody waits any more
            return
        if failure is None:
            done.set_result(returned)
        else:
            done.set_exception(failure)

    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(settle)
