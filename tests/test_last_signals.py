"""Signals that come as a process exits: where it has stopped as it was told, it exits with 0."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from proxy.app import App
from proxy.server.server import Server
from proxy.server.signals import SIGNALS, STOPS, handled
from support import settings


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Handle signals afterwards as before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_are_ignored_once_a_supervisor_has_stopped() -> None:
    """Python restores the defaults of those that are handled, before the process has ended."""
    with handled():
        pass
    assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}


def test_a_supervisor_that_failed_can_be_stopped_while_it_tells_why() -> None:
    """Its standard error may be a full pipe, whose reader is stuck."""
    with pytest.raises(ZeroDivisionError), handled():
        raise ZeroDivisionError
    assert {signal.getsignal(number) for number in STOPS} == {signal.SIG_DFL}
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("fails", [False, True])
def test_a_single_process_ignores_signals_at_its_end_unless_it_failed(fails: bool) -> None:
    async def serve() -> None:
        server = Server(App(settings("http://127.0.0.1:9")), lambda: None)
        with suppress(ZeroDivisionError), server.capture_signals():
            if fails:
                raise ZeroDivisionError
        afterwards = {signal.getsignal(number) for number in STOPS}
        assert afterwards == {signal.SIG_DFL if fails else signal.SIG_IGN}

    asyncio.run(serve())
