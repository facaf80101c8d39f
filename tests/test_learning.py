"""The limits of models that upstreams are asked for: used if they come, never needed."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace

import httpx
import pytest

from proxy.app import App
from proxy.bridge.models import ModelTarget, Profile, learn, profile
from proxy.config import Config
from proxy.exchange import learning
from proxy.runtime.offload import offload
from proxy.server.server import running
from support import PLAIN, Side, connect, old_request, raw_upstream, settings

pytestmark = pytest.mark.anyio

LISTING = {
    "data": [
        {
            "id": "claude-next",
            "max_tokens": 50,
            "capabilities": {"thinking": {"types": {"disabled": {"supported": True}}}},
        }
    ]
}


def heeding(url: str) -> Config:
    """A bridge to ``url`` that heeds what is told there of its one model."""
    models = (ModelTarget("*", "claude-next"),)
    return replace(settings(url, bridge=True), models=models, models_from_upstream=True)


@pytest.mark.parametrize(
    ("listing", "max_tokens", "thinking"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(LISTING).encode(), 50, {"type": "disabled"}),
        (b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", 100, None),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nwhat", 100, None),
        (b"", 100, None),
    ],
    ids=["told", "refused", "no JSON", "silent"],
)
async def test_a_bridge_heeds_what_was_told_and_does_without(
    listing: bytes, max_tokens: int, thinking: object
) -> None:
    bodies: list[dict[str, object]] = []

    async def play(side: Side) -> None:
        head, body = await side.request()
        if head.startswith(b"GET /v1/models?limit=1000 "):
            assert b"anthropic-version: 2023-06-01\r\n" in head
            await side.say(listing)
            return
        bodies.append(json.loads(body))
        await side.say(b"HTTP/1.1 500 Enough\r\ncontent-length: 0\r\n\r\n")

    async with (
        raw_upstream(play) as url,
        running(App(heeding(url))) as proxy,
        await connect(proxy) as client,
    ):
        await client.say(old_request(stream=False, tokens=100))
        await client.head()
    assert [body["max_tokens"] for body in bodies] == [max_tokens]
    assert [body.get("thinking") for body in bodies] == [thinking]


async def test_what_was_told_is_heeded_where_a_request_is_explained() -> None:
    """The explanation named another limit than the request that was then sent."""

    async def play(side: Side) -> None:
        await side.request()
        await side.say(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(LISTING).encode())

    _, asked = old_request(tokens=100).split(b"\r\n\r\n", 1)
    async with (
        raw_upstream(play) as url,
        running(App(heeding(url))) as proxy,
        httpx.AsyncClient(verify=PLAIN, base_url=proxy) as client,
    ):
        fields = {"content-type": "application/json"}
        told = await client.post("/-/explain", content=asked, headers=fields)
    assert json.loads(told.json()["body"])["max_tokens"] == 50


async def test_an_upstream_is_believed_of_its_own_models_alone() -> None:
    """What the last one told of a model cut the answers that another gave by that name."""
    asked: dict[str, object] = {}

    async def play(side: Side) -> None:
        head, body = await side.request()
        of = "other" if b" /other/" in head else "api"
        if head.startswith(b"GET "):
            limit = {"api": 80, "other": 50}[of]
            told = {"data": [{"id": "claude-next", "max_tokens": limit}]}
            await side.say(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(told).encode())
            return
        asked[of] = json.loads(body)["max_tokens"]
        await side.say(b"HTTP/1.1 500 Enough\r\ncontent-length: 0\r\n\r\n")

    async with raw_upstream(play) as url:
        config = settings(url, bridge=True)
        complete, api = config.routes[0], config.upstreams["api"]
        other = replace(api, name="other", base_url=f"{url}/other")
        aside = replace(complete, name="aside", path="/aside/v1/complete", upstream="other")
        config = replace(
            config,
            upstreams={"api": api, "other": other},
            routes=(complete, aside),
            models=(ModelTarget("*", "claude-next"),),
            models_from_upstream=True,
        )
        async with running(App(config)) as proxy:
            for path in (b"/v1/complete", b"/aside/v1/complete"):
                async with await connect(proxy) as client:
                    request = old_request(stream=False, tokens=100)
                    await client.say(request.replace(b"/v1/complete", path, 1))
                    await client.head()
    assert asked == {"api": 80, "other": 50}


async def test_a_listing_is_asked_for_in_a_version_that_the_upstream_speaks() -> None:
    """The bridge's own version was named to every upstream, and refused by one without it."""
    asked: list[bytes] = []

    async def play(side: Side) -> None:
        head, _ = await side.request()
        asked.append(head)
        await side.say(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(LISTING).encode())

    async with raw_upstream(play) as url:
        only_new = {"api": {"base_url": url, "speaks": ["2026-10-21"]}}
        config = settings(url, bridge=True, more={"upstreams": only_new})
        async with running(App(replace(config, models_from_upstream=True))):
            pass
    assert [b"anthropic-version: 2026-10-21\r\n" in head for head in asked] == [True]


async def test_a_listing_is_read_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 4 MB, which an upstream may send at a reload, held up all streams for seconds."""
    read: list[bool] = []

    def watched(listing: object) -> dict[str, Profile]:
        read.append(threading.current_thread() is threading.main_thread())
        return learn(listing)

    async def play(side: Side) -> None:
        await side.request()
        await side.say(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(LISTING).encode())

    monkeypatch.setattr(learning, "learn", watched)
    async with raw_upstream(play) as url:
        before = settings(url, bridge=True)
        app = App(before)
        async with running(app):
            await app.reload(replace(before, models_from_upstream=True))
    assert read == [False]


async def test_a_listing_is_read_before_what_clients_ask() -> None:
    """Behind them it took longer than it may, and a reload forgot what models of today refuse."""
    over = threading.Event()

    async def play(side: Side) -> None:
        head, body = await side.request()
        if head.startswith(b"GET "):
            await side.say(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(LISTING).encode())
            return
        bodies.append(json.loads(body))
        await side.say(b"HTTP/1.1 500 Enough\r\ncontent-length: 0\r\n\r\n")

    bodies: list[dict[str, object]] = []
    async with raw_upstream(play) as url:
        before = replace(settings(url, bridge=True), models=(ModelTarget("*", "claude-next"),))
        app = App(before)
        asked = asyncio.create_task(offload(over.wait))
        async with running(app) as proxy, await connect(proxy) as client:
            try:
                await app.reload(replace(before, models_from_upstream=True))
            finally:
                over.set()
            await asked
            await client.say(old_request(stream=False, tokens=100))
            await client.head()
    assert [body["max_tokens"] for body in bodies] == [50]


def test_a_limit_that_is_no_number_is_none() -> None:
    """To Python `true` is 1: each answer ended after its first token."""
    told = {"data": [{"id": "claude-next", "max_tokens": True}]}
    assert learn(told)["claude-next"] == profile("claude-next")


def test_what_is_known_of_thinking_is_not_unlearned() -> None:
    types = {"disabled": True}
    told = {"data": [{"id": "claude-opus-5-5", "capabilities": {"thinking": {"types": types}}}]}
    assert learn(told)["claude-opus-5-5"] == profile("claude-opus-5-5")


@pytest.mark.parametrize("listing", [None, [], {}, {"data": 1}, {"data": [1, {"id": 2}, {}]}])
def test_a_listing_that_is_none_teaches_nothing(listing: object) -> None:
    assert learn(listing) == {}
