"""The stages: each client plays once on either road."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import pytest

from genuine import roads
from genuine.old_clients import OldClient, perform
from genuine.roads import Road
from genuine.stages import OnStage, Stage
from packages.installed import Installed


@pytest.fixture(scope="session")
def on_stage(installed: Installed) -> Iterator[OnStage]:
    """Plays a client, once on either road."""
    with roads.opened() as opened, ThreadPoolExecutor(len(opened)) as threads:

        def played(client: OldClient, road: Road) -> Stage:
            before = len(road.upstream.paths)
            plays = client.plays(road.address)
            performance = perform(client, plays)
            return Stage(road, road.upstream.paths[before:], len(plays), performance)

        @cache
        def stages(client: OldClient) -> dict[str, Stage]:
            """On both roads at the same time: they have nothing in common."""
            on_each = threads.map(partial(played, client), opened.values())
            return dict(zip(opened, on_each, strict=True))

        def stage(client: OldClient, road: str) -> Stage:
            installed.require(client.places)
            return stages(client)[road]

        yield stage
