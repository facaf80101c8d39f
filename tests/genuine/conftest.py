"""Each client is run once on either road, for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import pytest

from genuine import roads
from genuine.old_clients import OldClient, run
from genuine.roads import Road
from genuine.runs import Run, RunOf
from packages.installed import Installed


@pytest.fixture(scope="session")
def run_of(installed: Installed) -> Iterator[RunOf]:
    """Runs a client, once on either road."""
    with roads.opened() as opened, ThreadPoolExecutor(len(opened)) as threads:

        def done(client: OldClient, road: Road) -> Run:
            before = len(road.upstream.paths)
            jobs = client.jobs(road.address)
            report = run(client, jobs)
            return Run(road, road.upstream.paths[before:], len(jobs), report)

        @cache
        def runs(client: OldClient) -> dict[str, Run]:
            """On both roads at the same time: they have nothing in common."""
            on_each = threads.map(partial(done, client), opened.values())
            return dict(zip(opened, on_each, strict=True))

        def run_on(client: OldClient, road: str) -> Run:
            installed.require(client.places)
            return runs(client)[road]

        yield run_on
