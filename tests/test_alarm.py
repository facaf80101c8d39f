"""The one timer for a deadline that moves all the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from proxy.runtime.alarm import NEVER, Alarm


class Loop:
    """An event loop whose time is what a test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []
        """All that were ever set."""

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    def pending(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.over]

    def advance(self, now: float) -> None:
        """Let it be ``now``, and one turn of the loop pass."""
        self.now = now
        for timer in self.pending():
            if timer.when <= now:
                timer.over = True
                timer.call()


class Timer:
    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call = call
        self.over = False

    def cancel(self) -> None:
        self.over = True


@pytest.fixture
def loop() -> Loop:
    return Loop()


def alarm_of(loop: Loop, ring: Callable[[], None]) -> Alarm:
    return Alarm(cast(asyncio.AbstractEventLoop, loop), ring)


def test_it_rings_once(loop: Loop) -> None:
    """Or it would in each turn, where the end that it has begun takes a while."""
    rung: list[float] = []
    alarm = alarm_of(loop, lambda: rung.append(loop.now))
    alarm.due = 3
    alarm.arm()
    for now in (2, 3, 4, 5):
        loop.advance(now)
    assert rung == [3]
    assert alarm.due == NEVER
    assert not loop.pending()


def test_it_rings_again_when_ring_says_so(loop: Loop) -> None:
    rung: list[float] = []

    def ring() -> None:
        rung.append(loop.now)
        alarm.due = loop.now + 2

    alarm = alarm_of(loop, ring)
    alarm.due = -1
    alarm.arm()
    for now in (1, 2, 3):
        loop.advance(now)
    assert rung == [1, 3]


def test_to_put_it_off_takes_no_timer(loop: Loop) -> None:
    rung: list[float] = []
    alarm = alarm_of(loop, lambda: rung.append(loop.now))
    for due in (3, 4, 5):
        alarm.due = due
        alarm.arm()
    assert len(loop.timers) == 1
    for now in (3, 4, 5):
        loop.advance(now)
    assert rung == [5]
    assert len(loop.timers) == 2


def test_of_two_deadlines_the_earlier_one_counts(loop: Loop) -> None:
    rung: list[float] = []
    alarm = alarm_of(loop, lambda: rung.append(loop.now))
    for due in (5, 3):
        alarm.due = due
        alarm.arm()
    assert [timer.when for timer in loop.pending()] == [3]
    loop.advance(3)
    assert rung == [3]


@pytest.mark.parametrize("from_within", [False, True])
def test_one_that_is_stopped_leaves_no_timer(loop: Loop, *, from_within: bool) -> None:
    rung: list[float] = []

    def ring() -> None:
        rung.append(loop.now)
        alarm.due = 9
        alarm.stop()

    alarm = alarm_of(loop, ring)
    alarm.due = 3
    alarm.arm()
    if from_within:
        loop.advance(3)
    else:
        alarm.stop()
    assert not loop.pending()
    alarm.due = 4  # whoever does not know that it is stopped
    alarm.arm()
    loop.advance(4)
    assert rung == ([3] if from_within else [])
