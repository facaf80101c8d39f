"""A rehearsal of the end reaches programs of 2023 as one error, and none calls again by itself."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

from genuine.old_clients import CLIENTS, OldClient, run
from genuine.scenarios import Scenario
from packages.installed import Installed
from proxy import config
from proxy.app import App
from proxy.observe.record import Record
from proxy.server.server import running

CHOSEN = [client for client in CLIENTS if client.name in ("py-0.2.2", "py-0.2.10", "js-0.4.4")]


def settings() -> config.Config:
    """A configuration whose brown-out is today."""
    window = {"from": f"{datetime.now(UTC):%Y-%m-%d}", "for": "48h"}
    nudge = {"sunset": "2999-01-01", "link": "https://example.com/move", "brownouts": [window]}
    route = {"path": "/v1/complete", "upstream": "api", "bridge": "messages", "nudge": nudge}
    upstream = {"base_url": "http://127.0.0.1:9", "speaks": ["2023-06-01"]}
    return config.parse(json.dumps({"upstreams": {"api": upstream}, "routes": [route]}), "test", {})


@pytest.mark.anyio
@pytest.mark.timeout(900)  # for an installation
@pytest.mark.parametrize("client", CHOSEN, ids=str)
async def test_a_client_of_2023_is_refused_once(client: OldClient, installed: Installed) -> None:
    installed.require(client.places)
    app = App(settings())
    records: list[Record] = []
    app.observers.append(records.append)
    async with running(app) as url:
        methods = (*client.wholes, *client.streams)
        jobs = {name: Scenario().job(name, url, client.quirks.always) for name in methods}
        report = await asyncio.to_thread(run, client, jobs)
    assert report.ended, report.stderr
    assert [record.error.partition(":")[0] for record in records] == ["version_brownout"] * len(
        jobs
    )
    for outcome in report.outcomes.values():
        seen = json.dumps([outcome.error, outcome.result])
        assert "503" in seen or "version_brownout" in seen
