"""Signals that come as a supervisor exits: it has stopped as it was told, and exits with 0."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from proxy.server.supervisor import SIGNALS, STOPS, _signals


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Handle signals afterwards as before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_are_ignored_once_a_supervisor_has_stopped() -> None:
    """Python restores the defaults of those that are handled, before the process has ended."""
    with _signals():
        pass
    assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}


def test_a_supervisor_that_failed_can_be_stopped_while_it_tells_why() -> None:
    """Its standard error may be a full pipe, whose reader is stuck."""
    with pytest.raises(ZeroDivisionError), _signals():
        raise ZeroDivisionError
    assert {signal.getsignal(number) for number in STOPS} == {signal.SIG_DFL}
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
