"""Takes long computations off the event loop: into one thread, where one follows the other.

The thread and the loop share the interpreter: the loop waits a few milliseconds for it at a time,
or as long as a single call into C takes, such as the one that parses a body. With several threads
it would wait for each of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_THREAD = ThreadPoolExecutor(1, "offload")
_URGENT = ThreadPoolExecutor(1, "urgent")


async def offload(work: Callable[[], T], *, urgent: bool = False) -> T:
    """What ``work`` returns or raises; the loop goes on meanwhile.

    ``urgent`` work has a thread of its own, and does not queue behind the requests of clients.
    """
    thread = _URGENT if urgent else _THREAD
    waiting = [work]

    def done() -> T:
        return waiting.pop()()

    try:
        return await asyncio.get_running_loop().run_in_executor(thread, done)
    finally:  # cancelled, the work stays in the queue, and with it all that it refers to
        waiting.clear()


async def start_threads() -> None:
    """Start the threads that requests need, while the system still has some.

    If one could not be started later, a request would fail; and libuv, whose threads look names up,
    would abort the process.
    """
    for thread in (_THREAD, _URGENT):
        thread.submit(int)
    await asyncio.get_running_loop().getaddrinfo(None, 0)
