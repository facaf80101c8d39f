"""Signals that come as a supervisor exits: it has stopped as it was told, and exits with 0."""

from __future__ import annotations

import signal

from proxy.server.supervisor import SIGNALS, _signals


def test_signals_are_ignored_once_a_supervisor_has_stopped() -> None:
    """Python restores the defaults of those that are handled, before the process has ended."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with _signals():
            pass
        assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
