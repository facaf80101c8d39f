"""The stages: each client plays once a road."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import roads
from installed import Installed
from old_clients import OldClient, perform
from stages import OnStage, Stage


@pytest.fixture(scope="session")
def on_stage(installed: Installed) -> Iterator[OnStage]:
    """Plays a client on a road, once."""
    with roads.opened() as opened:

        @cache
        def played(client: OldClient, road: str) -> Stage:
            upstream = opened[road].upstream
            before = len(upstream.paths)
            plays = client.plays(opened[road].address)
            performance = perform(client, plays)
            return Stage(opened[road], upstream.paths[before:], len(plays), performance)

        def stage(client: OldClient, road: str) -> Stage:
            installed.require(client.places)
            return played(client, road)

        yield stage
