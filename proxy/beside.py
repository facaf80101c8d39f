"""What computes for long is done beside the event loop, one after the other.

A thread that computes makes the loop wait for a few milliseconds at a time; several would make it
wait for all of theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_THREAD = ThreadPoolExecutor(1, "beside")


async def beside(work: Callable[[], T]) -> T:
    """What ``work`` returns or raises; the loop goes on meanwhile."""
    return await asyncio.get_running_loop().run_in_executor(_THREAD, work)
