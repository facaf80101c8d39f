"""Workers that take no command, and may not even be killed: the supervisor ends all the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import connection
from threading import Thread

import pytest

from proxy.server import supervisor
from proxy.server.crew import Crew
from proxy.server.signals import Signals
from proxy.server.supervisor import _stop
from proxy.server.worker import Common
from support import PATIENCE, settings


@contextmanager
def frozen() -> Iterator[Crew]:
    """A crew whose only worker is frozen, and could take long for its drain."""
    config = settings("http://127.0.0.1:9")
    with socket.socket() as unused:
        server = replace(config.server, drain=1_000_000)
        crew = Crew(replace(config, server=server), Common(unused, None, None))
        crew.start(["0"])
        try:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGSTOP)
            yield crew
        finally:
            crew.kill()
            while alive := crew.alive():
                assert connection.wait(alive, PATIENCE)


def returns(call: Callable[[], object]) -> bool:
    """Whether a call returns within PATIENCE."""
    calling = Thread(target=call, daemon=True)
    calling.start()
    calling.join(PATIENCE)
    return not calling.is_alive()


def test_python_waits_for_no_worker_as_it_exits() -> None:
    """A worker that waits for a disk that hangs does not end even when it is killed."""
    with frozen():
        (child,) = multiprocessing.active_children()
        assert returns(child.join)


def test_a_second_signal_ends_a_worker_that_does_not_heed_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "ENDED_WITHIN", 0)
    reading, writing = socket.socketpair()
    with frozen() as crew, reading, writing:
        signals = Signals(reading, writing)
        signals.add(signal.SIGTERM)
        signals.wake()
        assert returns(partial(_stop, crew, signals))
