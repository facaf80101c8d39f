"""What a reload makes of a reading of the configuration that cannot be made, or is a fault."""

from __future__ import annotations

import threading

import pytest

from proxy.config import Config
from proxy.observe.metrics import Metrics
from proxy.server.reload import Reading, read_again
from support import settings


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_where_no_thread_is_left_it_says_so_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings("http://h")
    woken: list[None] = []
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    reading = Reading(lambda: config, lambda: woken.append(None))
    assert reading.over
    assert woken == [None]
    assert read_again(reading.config, Metrics(), config) is None
    assert "Resource temporarily unavailable" in caplog.text
    assert "a fault of ours" not in caplog.text


def test_a_fault_of_ours_while_it_is_read_leaves_the_configuration_as_it_was(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It would end a supervisor, and with it all workers."""

    def faulty() -> Config:
        raise ZeroDivisionError

    metrics = Metrics()
    assert read_again(faulty, metrics, settings("http://h")) is None
    assert "a fault of ours" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "not reloaded: the configuration stays as it was" in caplog.text
