"""The endpoints under ``/-/``: their exact paths, and who may read them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin import page
from proxy.app import App
from proxy.core import hosts
from proxy.observe.metrics import Metrics
from proxy.server.reload import read_again
from proxy.server.server import running
from support import connect, settings

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def both_ports(**admin: Any) -> AsyncIterator[tuple[App, list[str]]]:
    """A proxy without an upstream: its address, and one for its endpoints alone."""
    app = App(settings("http://127.0.0.1:9", more={"admin": admin}))
    async with running(app) as url, running(app.admin) as apart:
        yield app, [url, apart]


async def asked(url: str, target: str, *fields: str, method: str = "GET") -> httpx.Response:
    """The answer to exactly this target and these fields; HTTP/1.0 can do without Host."""
    body = b"{}" if method == "POST" else b""
    head = [f"{method} {target} HTTP/1.0", *fields, f"content-length: {len(body)}", "", ""]
    async with await connect(url) as client:
        await client.say("\r\n".join(head).encode("latin-1") + body)
        answer, _, content = (await client.rest()).partition(b"\r\n\r\n")
    return httpx.Response(int(answer.split()[1]), content=content)


# Which paths are ours.


@pytest.mark.parametrize(
    "more", ["%0a", "%0A", "%0d", "%00", "%2e", "%2F", "./", "/", "%3fformat=csv", ";x", "%20"]
)
async def test_a_path_of_ours_is_taken_for_nothing_else(more: str) -> None:
    async with both_ports() as (_, urls):
        for url in urls:
            for path in ("/-/", "/-/healthy", "/-/ledger", "/-/metrics"):
                answer = await asked(url, path + more)
                assert answer.status_code == 404, path
                assert answer.json()["error"]["type"] == "not_found_error"


async def test_another_spelling_of_ours_is_not_ours() -> None:
    async with both_ports() as (_, (url, apart)):
        assert (await asked(url, "/-/%6cedger")).status_code == 404
        for target in ("/-/%6cedger", "/%2d/ledger", "/-%2F", "/-", "//-/", "//-/ledger"):
            assert (await asked(apart, target)).status_code == 404, target
        for path in ("/-/healthy", "/-/ready", "/-/metrics", "/-/ledger"):
            for each in (url, apart):
                assert (await asked(each, path)).status_code == 200, path


async def test_the_page_is_shown_where_no_file_can_be_opened_any_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where clients hold all that there are: it was a fault, told with all its calls."""
    page._page.cache_clear()  # others have asked for it
    async with both_ports() as (_, urls):
        monkeypatch.setattr(page, "FILE", tmp_path / "none")
        for url in urls:
            assert (await asked(url, "/-/ledger?format=html")).status_code == 200


async def test_a_long_query_is_not_taken_apart() -> None:
    """Of 60 KB it took 50 ms, and nobody else was served meanwhile."""
    query = "&".join(["%41"] * 1024)
    async with both_ports() as (_, urls):
        for url in urls:
            for method, path in (("GET", "/-/ledger"), ("POST", "/-/explain"), ("GET", "/-/")):
                fields = ("content-type: application/json",)
                short = await asked(url, f"{path}?{query}", *fields, method=method)
                long = await asked(url, f"{path}?{query}&&", *fields, method=method)
                assert (short.status_code in (200, 307), long.status_code) == (True, 400), path
                assert long.json()["error"]["message"] == "the query is longer than 4096 bytes"


# Under which names they are answered: a stranger's can be bound to our address (DNS rebinding).


TELLING = {
    ("GET", "/-/"): 307,
    ("HEAD", "/-/"): 307,
    ("GET", "/-/ledger"): 200,
    ("GET", "/-/ledger?format=html"): 200,
    ("POST", "/-/explain"): 200,
    ("POST", "/-/playground"): 200,
}
"""What tells of people or acts for them, and its status."""

OURS = re.findall(
    r"\S+",
    """
    127.0.0.1 127.0.0.1:8080 10.1.2.3 [::1] [::1]:8080 [fd00::1] localhost LocalHost:8080 localhost.
    proxy proxy:80 my_proxy old.localhost proxy.local proxy.internal proxy.test proxy.home.arpa
    proxy.team.svc.cluster.local proxy.team.svc.cluster.local.:8080 host.docker.internal
""",
)

FOREIGN = re.findall(
    r"\S+",
    """
    evil.example evil.example:8080 evil.example. localhost.evil.example 127.0.0.1.evil.example
    10-1-2-3.evil.example evil.local.example evil.xlocal evil.nothome.arpa home.arpa.example
    proxy.team proxy.team.svc 127.1 0x7f.0.0.1 999.9.9.9 [::1].evil.example [::1 ::1 [127.0.0.1]
    [evil.example] evil.example:80:80 localhost:80@evil.example localhost/evil.example a..local
    . .localhost :8080 localhost,evil.example pr\xfcfung
""",
)


@pytest.mark.parametrize("host", OURS)
async def test_who_asks_by_a_name_that_nobody_can_own_is_answered(host: str) -> None:
    async with both_ports() as (_, urls):
        for url in urls:
            assert (await asked(url, "/-/ledger", f"host: {host}")).status_code == 200


@pytest.mark.parametrize("host", FOREIGN)
async def test_who_asks_by_a_name_of_others_is_told_of_nobody(host: str) -> None:
    async with both_ports() as (_, urls):
        for url in urls:
            answer = await asked(url, "/-/ledger", f"host: {host}")
            assert answer.status_code == 421
            assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_all_but_figures_and_health_is_kept_from_pages_of_others() -> None:
    page = ("host: evil.example", "origin: http://evil.example", "content-type: application/json")
    async with both_ports() as (_, urls):
        for url in urls:
            for (method, target), status in TELLING.items():
                answer = await asked(url, target, *page, method=method)
                assert answer.status_code == 421, target
                own = [field.replace("evil.example", "localhost") for field in page]
                assert (await asked(url, target, *own, method=method)).status_code == status
            for path in ("/-/healthy", "/-/ready", "/-/metrics"):
                assert (await asked(url, path, *page)).status_code == 200
            assert (await asked(url, "/-/unknown", *page)).status_code == 404


@pytest.mark.parametrize("fields", [(), ("host:",), ("host: ",), ("host: localhost", "host: ::1")])
async def test_a_name_may_be_missing_and_not_be_one_of_several(fields: tuple[str, ...]) -> None:
    async with both_ports() as (_, (url, _)):
        status = (await asked(url, "/-/ledger", *fields)).status_code
    assert status == (421 if len(fields) > 1 else 200)


async def test_a_refusal_says_what_to_do_and_repeats_nothing_that_could_harm() -> None:
    async def refusal(host: str) -> str:
        answer = await asked(url, "/-/", f"host: {host}")
        assert answer.json().keys() == {"type", "error"}
        message: str = answer.json()["error"]["message"]
        return message

    async with both_ports() as (_, (url, _)):
        assert await refusal("Evil.example:8080") == (
            "'evil.example' is not a name of this proxy: use an IP address or localhost,"
            " or add the name to admin.hosts"
        )
        for secret in ("sk-ant-hunter2", f"{'a.' * 120}sk-hunter2-0123456789abcdef"):
            assert "hunter2" not in await refusal(f"{secret}.example")
        assert len(await refusal("a." * 5000)) < 400
        assert "\x1b" not in await refusal("a.\x9b\x85b")


async def test_the_operator_adds_names_and_a_reload_takes_them() -> None:
    listed = ["Proxy.example.com", "b.example."]
    fine = ["proxy.example.com", "PROXY.example.com.:443", "B.example:80", "127.0.0.1"]
    wrong = ["x.proxy.example.com", "example.com", "c.example"]
    async with both_ports(hosts=listed) as (app, urls):
        for url in urls:
            for host in fine + wrong:
                answer = await asked(url, "/-/", f"host: {host}")
                assert answer.status_code == (307 if host in fine else 421), host
        await app.reload(settings("http://127.0.0.1:9", more={"admin": {"hosts": ["c.example"]}}))
        for url in urls:
            assert (await asked(url, "/-/", "host: c.example")).status_code == 307
            assert (await asked(url, "/-/", "host: b.example")).status_code == 421


def test_names_are_taken_anew_though_the_port_stays() -> None:
    before, now = (
        settings("http://127.0.0.1:9", more={"admin": {"port": port, "hosts": [name]}})
        for port, name in ((1, "a.example"), (2, "b.example"))
    )
    read = read_again(lambda: now, Metrics(None, None), before)
    assert read is not None
    assert (read.admin.port, read.admin.hosts) == (1, ("b.example",))


LABELS = st.from_regex(r"[a-z0-9-]{1,8}", fullmatch=True)


@given(st.lists(LABELS, min_size=1), st.sampled_from(["com", "example", "svc", "dev", "arpa", "1"]))
def test_no_name_that_can_be_registered_is_nobodys(labels: list[str], top: str) -> None:
    name = ".".join([*labels, top])
    address = top == "1" and name.replace(".", "").isdigit()
    assert address or name.endswith(".home.arpa") or not hosts.is_unregistrable(name)
