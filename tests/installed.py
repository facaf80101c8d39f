"""What the tests of a run need is installed beside them, from the start of the run to its end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from places import Place

INSTALLER = Path(__file__).with_name("installer.py")


class Installed:
    """The places of a run: those that were there, and those of which reports are to come."""

    def __init__(self, there: Iterable[Place], reports: IO[str]) -> None:
        self._troubles = {place.name: "" for place in there}
        self._reports = reports

    def trouble(self, place: Place) -> str:
        """Wait until a place is there, or cannot be; returns what went wrong."""
        while place.name not in self._troubles and (report := self._reports.readline()):
            self._troubles |= [json.loads(report)]
        return self._troubles.get(place.name, "its installer has ended")

    def require(self, places: Iterable[Place]) -> None:
        """Wait until all are there; else the test is skipped, or fails where ``CI`` is true."""
        for place in places:
            if trouble := self.trouble(place):
                told = f"{place.tool} cannot install {place.name}: {trouble}"
                pytest.fail(told) if os.environ.get("CI") == "true" else pytest.skip(told)


@contextmanager
def installing(places: Iterable[Place]) -> Iterator[Installed]:
    """Install what is not there yet, in this order, for as long as the block runs.

    It happens in a process of its own, for there are tests that count what is open in this one.
    """
    places = dict.fromkeys(places)
    there = [place for place in places if place.path.exists()]
    missing = [place for place in places if place not in there]
    if not missing:
        yield Installed(there, io.StringIO())
        return
    with subprocess.Popen(
        [sys.executable, str(INSTALLER), json.dumps(missing)],
        stdin=subprocess.PIPE,  # which ends with this process
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the tests: they end it
    ) as installer:
        assert installer.stdout is not None
        yield Installed(there, installer.stdout)


def needed(items: Iterable[pytest.Item]) -> Iterator[Place]:
    """What tests need: their parameters know."""
    for value in parameters(items):
        yield from getattr(value, "places", ())


def parameters(items: Iterable[pytest.Item]) -> Iterator[object]:
    """What tests are about."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            yield from item.callspec.params.values()
