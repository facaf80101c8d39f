"""The supervisor's signals: they are handled where it waits for them, never amid other work."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait

STOPS = {signal.SIGINT, signal.SIGTERM}

SIGNALS = (*STOPS, signal.SIGHUP)
"""The signals that the supervisor handles and workers ignore."""


class Signals:
    """The signals that have come.

    A set records which they are. The sockets only wake who waits: a storm of signals fills them, so
    that some are not written there.
    """

    def __init__(self, reading: socket.socket, writing: socket.socket) -> None:
        self._reading = reading
        self._writing = writing
        self._pending: set[int] = set()

    def add(self, number: int, _: object = None) -> None:
        """Record a signal; the handler of them all."""
        self._pending.add(number)

    def wake(self) -> None:
        """End the waiting under way, or the next one; from any thread."""
        with suppress(OSError):  # full, which wakes as well, or closed
            self._writing.send(b"\0")

    def wait(self, patience: float, others: Sequence[int] = ()) -> set[int]:
        """The signals of at most so many seconds, until one comes or a sentinel is ready."""
        if self._reading in wait([self._reading, *others], patience):
            self._reading.recv(1 << 20)
        now = set(self._pending)
        self._pending.difference_update(now)
        return now


@contextmanager
def handled() -> Iterator[Signals]:
    """Handle SIGNALS while the block runs; after it they are ignored.

    If it raises, those that stop have their usual effect again.
    """
    reading, writing = socket.socketpair()
    failed = True
    with reading, writing:
        writing.setblocking(False)
        signals = Signals(reading, writing)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, signals.add)
        try:
            yield signals
            failed = False
        finally:
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:  # Python puts the defaults back as it exits: they would kill it
                signal.signal(number, signal.SIG_IGN)
            if failed:  # to tell why may take for ever, where nobody reads it: a stop ends that
                for number in STOPS:
                    signal.signal(number, signal.SIG_DFL)
