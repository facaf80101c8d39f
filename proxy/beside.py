"""What computes for long is done beside the event loop, one after the other.

A thread that computes makes the loop wait for a few milliseconds at a time, or for as long as a
single call of C takes, such as the one that reads a body; several would make it wait for all of
theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_THREAD = ThreadPoolExecutor(1, "beside")
_FIRST = ThreadPoolExecutor(1, "first")


async def beside(work: Callable[[], T], *, first: bool = False) -> T:
    """What ``work`` returns or raises; the loop goes on meanwhile.

    What is to be done ``first`` has a thread of its own, and does not wait behind what clients ask.
    """
    thread = _FIRST if first else _THREAD
    waiting = [work]

    def done() -> T:
        return waiting.pop()()

    try:
        return await asyncio.get_running_loop().run_in_executor(thread, done)
    finally:  # its place in the queue outlasts who gave up, and would keep all that the work needs
        waiting.clear()


async def start_threads() -> None:
    """Start the threads that requests need, while there are some to be had.

    Without one later a request would be lost; libuv, which looks names up in threads of its own,
    would end the process.
    """
    for thread in (_THREAD, _FIRST):
        thread.submit(int)
    await asyncio.get_running_loop().getaddrinfo(None, 0)
