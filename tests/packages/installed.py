"""The packages that tests need: installed in another process, while other tests already run."""

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

from packages.places import Place

TESTS = Path(__file__).parents[1]


class Installed:
    """The places that a run needs: those that existed, and those that ``reports`` will report."""

    def __init__(self, there: Iterable[Place], reports: IO[str]) -> None:
        self._troubles = {place.name: "" for place in there}
        self._reports = reports

    def trouble(self, place: Place) -> str:
        """Wait until a place is installed or has failed; returns the error, or nothing."""
        while place.name not in self._troubles and (report := self._reports.readline()):
            self._troubles |= [json.loads(report)]
        return self._troubles.get(place.name, "its installer has ended")

    def require(self, places: Iterable[Place]) -> None:
        """Wait until all are installed. If one fails, skip the test; fail it if ``CI`` is true."""
        for place in places:
            if trouble := self.trouble(place):
                error = f"{place.tool} cannot install {place.name}: {trouble}"
                pytest.fail(error) if os.environ.get("CI") == "true" else pytest.skip(error)


@contextmanager
def installing(places: Iterable[Place]) -> Iterator[Installed]:
    """Install the missing places, starting in this order, for as long as the block runs.

    This is left to another process, for some tests count the open descriptors of this one.
    """
    places = dict.fromkeys(places)
    there = [place for place in places if place.path.exists()]
    missing = [place for place in places if place not in there]
    if not missing:
        yield Installed(there, io.StringIO())
        return
    with subprocess.Popen(
        [sys.executable, "-m", "packages.installer", json.dumps(missing)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdin=subprocess.PIPE,  # closed when this process ends, in whatever way
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that Ctrl-C reaches only the tests, which end it
    ) as installer:
        assert installer.stdout is not None
        yield Installed(there, installer.stdout)


def needed(items: Iterable[pytest.Item]) -> Iterator[Place]:
    """The places that tests need, which are listed by their parameters."""
    for value in parameters(items):
        yield from getattr(value, "places", ())


def parameters(items: Iterable[pytest.Item]) -> Iterator[object]:
    """The values of all parameters of tests."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            yield from item.callspec.params.values()
