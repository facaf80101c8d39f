"""Adds a made-up version of the API, one entry with one change, and uses it from outside."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from proxy import config, versions
from proxy.app import App
from proxy.cli.cli import main
from proxy.core.change import Body, Call, VersionChange
from proxy.server.server import running
from support import Side, connect, raw_upstream

pytestmark = pytest.mark.anyio


class BudgetReplacedMaxTokens(VersionChange):
    """`max_tokens` is called `budget`, and answers say what is left of it."""

    endpoints = ("/v1/messages",)

    def upgrade_request(self, call: Call) -> Call:
        call.body["budget"] = call.body.pop("max_tokens", None)
        return call

    def downgrade_response(self, body: Body) -> Body:
        return {field: value for field, value in body.items() if field != "budget_left"}


NEXT = versions.Version("2099-01-01", "A made-up version.", (BudgetReplacedMaxTokens,))


@pytest.fixture(autouse=True)
def _added(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(versions, "VERSIONS", (*versions.VERSIONS, NEXT))
        _forget_history()
        yield
    _forget_history()


def _forget_history() -> None:
    """Clear the caches: in no program but this one do the versions ever change."""
    versions.dates.cache_clear()
    versions.steps.cache_clear()


@pytest.mark.parametrize("version", ["2023-01-01", "2023-06-01", "2026-10-21"])
async def test_every_older_client_is_served_by_an_upstream_of_the_new_version(version: str) -> None:
    requests: list[tuple[bytes, bytes]] = []

    async def play(side: Side) -> None:
        requests.append(await side.request())
        body = b'{"id":"msg_1","content":[],"stop_reason":"end_turn","budget_left":1}'
        await side.say(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
        await side.say(b"content-length: %d\r\n\r\n%b" % (len(body), body))

    async with raw_upstream(play) as upstream:
        text = f"""
            server: {{port: 0}}
            upstreams: {{api: {{base_url: "{upstream}", speaks: [2099-01-01]}}}}
            routes: [{{path: "/{{rest:path}}", upstream: api}}]
        """
        async with (
            running(App(config.parse(text, "test", {}))) as url,
            await connect(url) as client,
        ):
            body = b'{"model":"m","max_tokens":7,"messages":[{"role":"user","content":"Hi"}]}'
            await client.say(
                b"POST /v1/messages HTTP/1.1\r\nhost: p\r\ncontent-length: %d\r\n"
                b"anthropic-version: %b\r\n\r\n%b" % (len(body), version.encode(), body)
            )
            head = await client.head()
            assert f"x-proxy-version: {version}, upstream=2099-01-01".encode() in head
            got = json.loads(await client.until(b"}"))
    (sent_head, sent_body), *others = requests
    assert not others
    assert b"anthropic-version: 2099-01-01\r\n" in sent_head
    assert json.loads(sent_body)["budget"] == 7
    assert "max_tokens" not in json.loads(sent_body)
    assert "budget_left" not in got
    assert got["stop_reason"] == "end_turn"


def test_the_command_versions_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["versions"]) == 0
    *_, version, change = capsys.readouterr().out.splitlines()
    assert version == "2099-01-01  A made-up version."
    assert change.strip().startswith("`max_tokens` is called `budget`")
