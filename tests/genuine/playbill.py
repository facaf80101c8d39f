"""The stages: what a run needs is installed at its start, and each client plays once a road."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import pytest
import roads
from old_clients import OldClient, install, perform
from stages import OnStage, Stage, Way


@pytest.fixture(scope="session")
def on_stage(request: pytest.FixtureRequest) -> Iterator[OnStage]:
    """Plays a client on a road, once."""
    troubles = install(set(_clients(request.session.items)))
    with roads.opened() as opened:

        @cache
        def stage(client: OldClient, road: str) -> Stage:
            upstream = opened[road].upstream
            before = len(upstream.paths)
            plays = client.plays(opened[road].address)
            performance = perform(client, plays)
            return Stage(opened[road], upstream.paths[before:], len(plays), performance)

        def stage_or_skip(client: OldClient, road: str) -> Stage:
            trouble = troubles[client.place]
            if trouble and os.environ.get("CI") == "true":
                pytest.fail(trouble)
            if trouble:
                pytest.skip(trouble)
            return stage(client, road)

        yield stage_or_skip


def _clients(items: list[pytest.Item]) -> Iterator[OldClient]:
    """Those that tests of this run are about."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            for value in item.callspec.params.values():
                client = value.client if isinstance(value, Way) else value
                if isinstance(client, OldClient):
                    yield client
