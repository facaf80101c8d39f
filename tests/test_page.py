"""The page in a browser: up to date, safe from injected names, and loaded from one origin."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

import httpx
import pytest

from proxy import config
from proxy.app import App
from proxy.cli.demo import CONFIG
from proxy.sandbox import sandbox
from proxy.server.server import running
from support import PLAIN
from support.browser import CHROMIUM, Page, browser

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        CHROMIUM is None and os.environ.get("CI") != "true", reason="there is no Chromium"
    ),
]

HOSTILE = '<img src=x onerror="document.title=1">'
PROMPT = "\n\nHuman: Hi\n\nAssistant:"


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[str]:
    async with running(sandbox.build(delay=0)) as url:
        yield url


@pytest.fixture(scope="module")
async def chromium(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Page]:
    """One browser for all."""
    async with browser(tmp_path_factory.mktemp("chromium")) as page:
        yield page


class Visit:
    """The page of a proxy of its own, and a client of 2023 in front of the same."""

    def __init__(self, page: Page, client: httpx.AsyncClient) -> None:
        self.page = page
        self._client = client

    async def ask(
        self,
        model: str = "claude-v1",
        kind: str = "anthropic-python/0.2.8",
        more: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Call as a client of 2023 does, with ``more`` parameters."""
        body = {"model": model, "prompt": PROMPT, "max_tokens_to_sample": 9, "stream": True, **more}
        fields = {"client": kind, "x-api-key": "k"}
        (await self._client.post("/v1/complete", json=body, headers=fields)).raise_for_status()

    async def pass_through(self) -> None:
        fields = {"anthropic-version": "2023-06-01", "x-api-key": "new"}
        (await self._client.get("/v1/models", headers=fields)).raise_for_status()

    async def look(self) -> None:
        """Have the page look now, as it does when it comes to be seen."""
        await self.page.run("document.dispatchEvent(new Event('visibilitychange'))")

    async def rows(self, count: int) -> list[str]:
        """The text of the table's rows, once there are so many."""
        rows = "[...document.querySelectorAll('#rows tr:not(.nothing)')]"
        await self.page.until(f"{rows}.length === {count}")
        texts: list[str] = await self.page.run(f"{rows}.map((row) => row.innerText)")
        return texts

    async def text(self, selector: str) -> str:
        text: str = await self.page.run(f"document.querySelector('{selector}').innerText")
        return text


@asynccontextmanager
async def visited(page: Page, upstream: str, *, exchanges: int = 0) -> AsyncIterator[Visit]:
    """A visit that leaves nothing to complain of, nor has asked anybody else for anything."""
    page.complaints.clear()
    page.requests.clear()
    app = App(config.parse(CONFIG.format(upstream=upstream), "test", {}))
    async with (
        running(app) as url,
        httpx.AsyncClient(base_url=url, verify=PLAIN) as client,
    ):
        visit = Visit(page, client)
        for _ in range(exchanges):
            await visit.ask()
        await page("Page.navigate", url=f"{url}/-/")
        await page.until(
            "document.querySelector('#state').textContent === 'live'"
            " && document.querySelector('#made').textContent"
        )
        yield visit
        assert not page.complaints
        assert page.requests
        assert not [asked for asked in page.requests if not asked.startswith((url, "data:"))]
        await page("Page.navigate", url="about:blank")


async def test_nobody_yet_and_then_somebody_without_a_reload(chromium: Page, upstream: str) -> None:
    async with visited(chromium, upstream) as visit:
        assert await visit.text("#answer") == "Nobody has called yet."
        assert "/v1/complete" in await visit.text("#empty pre")
        await visit.ask()
        (row,) = await visit.rows(1)
        assert row.split("\n")[:2] == ["anthropic-python/0.2.8", "8254c329a928"]
        for word in ("2023-01-01", "complete", "claude-v1", "claude-haiku-4-5", "just now"):
            assert word in row
        assert "whole text in every event" in row
        assert (await visit.text("#answer")).startswith(
            "1 client with 1 key still speaks 2023-01-01, last just now. 0 % of the exchanges"
        )
        assert not await chromium.run("document.querySelector('#empty').checkVisibility()")


async def test_time_passes_though_nobody_calls(chromium: Page, upstream: str) -> None:
    async with visited(chromium, upstream, exchanges=1) as visit:
        assert "last just now" in await visit.text("#answer")
        await chromium.run(
            "window.fetch = async () => new Response(null, {status: 304, headers:"
            " {date: new Date(Date.now() + 7200000).toUTCString()}})"
        )
        await visit.look()
        await chromium.until("byId('answer').textContent.includes('last 2 hours ago')")


async def test_what_passes_through_counts_as_migrated(chromium: Page, upstream: str) -> None:
    async with visited(chromium, upstream, exchanges=1) as visit:
        for _ in range(3):
            await visit.pass_through()
        await visit.look()
        await chromium.until("document.querySelector('#answer').innerText.includes('75 %')")
        await visit.rows(1)
        await chromium.run("document.querySelector('#everyone').click()")
        await visit.rows(2)
        assert await visit.text("#legend") == "2023-01-01 translated\n2023-06-01 passed through"
        bars = "document.querySelectorAll('#plots svg rect.old, #plots svg rect.new').length"
        assert await chromium.run(bars) == 4


async def test_names_of_strangers_are_text(chromium: Page, upstream: str) -> None:
    async with visited(chromium, upstream) as visit:
        await visit.ask(f"claude-{HOSTILE}", more={HOSTILE: 1, "__proto__": 1})
        await visit.look()
        (row,) = await visit.rows(1)
        assert row.count(HOSTILE) == 2
        assert "__proto__" in row
        assert await chromium.run("document.querySelectorAll('img').length") == 0
        assert (await chromium.run("document.title")).startswith("1 client")


async def test_a_script_that_got_in_would_not_run(chromium: Page, upstream: str) -> None:
    async with visited(chromium, upstream) as visit:
        await visit.page.run(
            "document.body.append(Object.assign(document.createElement('script'),"
            " {textContent: 'document.title = \"run\"'}))"
        )
        assert await chromium.run("document.title") != "run"
        assert len(chromium.complaints) == 1
        assert "Content Security Policy" in chromium.complaints.pop()


async def test_the_table_sorts_filters_and_opens_by_keyboard(chromium: Page, upstream: str) -> None:
    async with visited(chromium, upstream) as visit:
        await visit.ask(kind="b/1")
        await visit.ask(kind="b/1")
        await visit.ask(kind="a/1")
        await visit.look()
        await visit.rows(2)
        for column, direction, first in (
            ("exchanges", "descending", "b/1"),
            ("exchanges", "ascending", "a/1"),
            ("client", "ascending", "a/1"),
        ):
            head = f"document.querySelector('th[data-sort={column}]')"
            await chromium.run(f"{head}.firstElementChild.click()")
            assert await chromium.run(f"{head}.ariaSort") == direction
            assert (await visit.rows(2))[0].startswith(first)
        await chromium.run("document.querySelector('.more').focus()")
        for kind in ("keyDown", "keyUp"):
            enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
            await chromium("Input.dispatchKeyEvent", type=kind, **enter)
        assert "CompleteThroughMessages 1" in (await visit.rows(3))[1]
        assert await chromium.run("document.activeElement.ariaExpanded") == "true"
        await chromium.run(
            "document.querySelector('#filter').value = 'B/1 claude';"
            "document.querySelector('#filter').dispatchEvent(new Event('input'))"
        )
        assert (await visit.rows(1))[0].startswith("b/1")


async def test_it_is_dark_where_that_is_preferred_and_fits_every_width(
    chromium: Page, upstream: str
) -> None:
    async with visited(chromium, upstream, exchanges=1) as visit:
        await visit.rows(1)
        paper = "getComputedStyle(document.body).backgroundColor"
        seen = []
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            await chromium("Emulation.setEmulatedMedia", features=features)
            seen.append(await chromium.run(paper))
        await chromium("Emulation.setEmulatedMedia", features=[])
        assert seen == ["rgb(250, 248, 244)", "rgb(22, 21, 18)"]
        await visit.ask("claude-" + "x" * 200, "a" * 40 + "/1.2.3-with-a-long-tail", {"y" * 90: 1})
        await visit.look()
        await visit.rows(2)
        for width in (360, 800, 1000):
            size = {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": True}
            await chromium("Emulation.setDeviceMetricsOverride", **size)
            assert await chromium.run("document.documentElement.scrollWidth") == width
        await chromium("Emulation.clearDeviceMetricsOverride")


async def test_the_playground_shows_both_wires_and_why(chromium: Page, upstream: str) -> None:
    async with visited(chromium, upstream) as visit:
        await chromium.until("document.querySelector('#made').textContent.includes('messages')")
        reasons = await visit.text("#reasons")
        assert "left out: top_p, the model takes it or temperature, not both" in reasons
        await chromium.run("document.querySelector('#key').value = 'sk-hunter2'")
        await chromium.run("document.querySelector('#send').click()")
        ended = await chromium.until("document.querySelector('#ended').innerText")
        assert ended.endswith("s: complete.")
        client, upstreams = [
            await chromium.run(
                f"[...document.querySelectorAll('#events .{wire}')]"
                ".map((event) => event.textContent).join('\\n')"
            )
            for wire in ("client", "upstream")
        ]
        assert "POST /v1/complete" in client
        assert "data: [DONE]" in client
        assert "POST /v1/messages" in upstreams
        assert "event: message_stop" in upstreams
        assert "hunter2" not in await chromium.run("document.documentElement.outerHTML")
        assert await visit.text("#answer") == "Nobody has called yet."


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (
            r'{"a": 12345678901234567890, "b": 1.0}',
            '{\n  "a": 12345678901234567890,\n  "b": 1.0\n}',
        ),
        (r'{"a":[ ],"b":{},"c":[1e400]}', '{\n  "a": [],\n  "b": {},\n  "c": [\n    1e400\n  ]\n}'),
        (r'["{\"a\":\\", "}"]', '[\n  "{\\"a\\":\\\\",\n  "}"\n]'),
        ("[1", "[1"),
    ],
)
async def test_what_goes_upstream_is_shown_to_the_last_digit(
    chromium: Page, upstream: str, body: str, shown: str
) -> None:
    async with visited(chromium, upstream):
        await chromium.run(
            "byId('path').value = '/v1/other'; byId('version').value = '2023-06-01';"
            f"byId('request').value = {json.dumps(body)};"
            "byId('request').dispatchEvent(new Event('input'))"
        )
        await chromium.until("byId('whither').textContent.includes('/v1/other')")
        assert await chromium.run("byId('made').textContent") == shown


async def test_of_a_long_exchange_it_says_how_much_is_not_shown(
    chromium: Page, upstream: str
) -> None:
    event = json.dumps({"ms": 1, "wire": "client", "text": "data: {}\n\n"})
    end = json.dumps({"ms": 2, "ended": "complete", "error": ""})
    async with visited(chromium, upstream) as visit:
        await chromium.run(
            f"window.fetch = async () => new Response(({event!r} + '\\n').repeat(2003)"
            f" + {end!r} + '\\n');"
            "byId('send').click()"
        )
        await chromium.until("byId('ended').textContent")
        assert await visit.text("#ended") == (
            "Ended after 0.00 s: complete. 3 more events came than are shown."
        )


async def test_what_breaks_off_is_not_said_to_be_unsent(chromium: Page, upstream: str) -> None:
    async with visited(chromium, upstream) as visit:
        await chromium.run(
            "window.fetch = async () => new Response(new ReadableStream("
            "{start: (stream) => stream.error(new Error('it is gone'))}));"
            "byId('send').click()"
        )
        await chromium.until("byId('ended').textContent")
        assert await visit.text("#ended") == "Broken off: it is gone."


async def test_a_request_that_makes_no_sense_is_told_before_it_is_sent(
    chromium: Page, upstream: str
) -> None:
    async with visited(chromium, upstream):
        await chromium.run(
            "document.querySelector('#request').value = '{';"
            "document.querySelector('#request').dispatchEvent(new Event('input'))"
        )
        await chromium.until("document.querySelector('#made').textContent.startsWith('400')")


async def test_it_says_when_the_proxy_is_gone_and_asks_nothing_while_hidden(
    chromium: Page, upstream: str
) -> None:
    async with visited(chromium, upstream):
        await chromium.run(
            "window.fetch = () => Promise.reject(new Error('gone'));"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        await chromium.until("document.querySelector('#state').className === 'lost'")
        await chromium.run(
            "window.asked = 0;"
            "window.fetch = () => { window.asked++; return new Promise(() => {}); };"
            "Object.defineProperty(document, 'hidden', {value: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        assert await chromium.run("window.asked") == 0
