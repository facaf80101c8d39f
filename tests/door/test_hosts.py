"""Under which names the proxy answers, and to the pages of which sites."""

from __future__ import annotations

import pytest

from door.harness import More, Upstream, answer, door, envelope
from support import old_request

pytestmark = pytest.mark.anyio

OURS: More = {"server": {"hosts": ["Proxy.example.com"]}}

OF_OURS = [
    b"host: proxy",
    b"host: 127.0.0.1:8080",
    b"host: proxy.Example.com.:443",
    b"host:",
    b"host: proxy\r\norigin: http://localhost:3000",
    b"host: proxy\r\norigin: http://[::1]:3000",
    b"host: proxy\r\norigin: https://proxy.example.com",
    b"host: proxy.example.com\r\norigin: http://127.0.0.1",
    b"host: 10.1.2.3:8080\r\norigin: http://10.1.2.3",
    b"host: proxy\r\nsec-fetch-site: none",
    b"host: proxy\r\nsec-fetch-site: cross-site\r\norigin: http://localhost:3000",
    b"host: 10.1.2.3 \t\r\norigin: http://10.1.2.3 ",
    b"host: proxy\r\norigin: app://localhost",
]

OF_OTHERS = {
    b"host: evil.example": 421,
    b"host: proxy.example.com.evil.example": 421,
    b"host: evil.example\r\norigin: http://evil.example": 421,
    b"host: proxy\r\norigin: https://evil.example": 403,
    b"host: proxy\r\norigin: https://evil.example:8080": 403,
    b"host: proxy\r\norigin: https://localhost@evil.example": 403,
    b"host: proxy\r\norigin: http://10.1.2.3": 403,
    b"host: 10.1.2.3\r\norigin: http://203.0.113.5": 403,
    b"host: proxy\r\norigin: http://[::ffff:cb00:7105]": 403,
    b"host: proxy\r\norigin: null": 403,
    b"host:\r\norigin: null": 403,
    b"host: proxy\r\norigin: localhost": 403,
    b"host: proxy\r\norigin: chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb": 403,
    b"host: proxy\r\norigin:": 403,
    b"host: proxy\r\norigin: file://": 403,
    b"host: proxy\r\norigin: http://localhost\r\norigin: https://evil.example": 403,
    b"host: proxy\r\nsec-fetch-site: cross-site": 403,
}


@pytest.mark.parametrize("fields", [*OF_OURS, *OF_OTHERS])
async def test_who_asks_by_whatever_name_is_answered(fields: bytes) -> None:
    async with door(Upstream()) as client:
        await client.say(b"GET /v1/models HTTP/1.1\r\n%b\r\n\r\n" % fields)
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("fields", OF_OURS)
async def test_who_asks_by_a_name_of_ours_is_answered(fields: bytes) -> None:
    async with door(Upstream(), OURS) as client:
        await client.say(b"GET /v1/models HTTP/1.1\r\n%b\r\n\r\n" % fields)
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("fields", "status"), OF_OTHERS.items())
async def test_no_page_of_others_spends_a_key_where_our_names_are_known(
    fields: bytes, status: int
) -> None:
    upstream = Upstream()
    async with door(upstream, OURS) as client:
        call = old_request().replace(b"host: proxy", fields)
        for request in (b"GET /v1/models HTTP/1.1\r\n%b\r\n\r\n" % fields, call):
            await client.say(request)
            head, body = await answer(client)
            assert head.startswith(b"HTTP/1.1 %d " % status)
            type_ = {403: "permission_error", 421: "invalid_request_error"}[status]
            told = envelope(body, type_)
            assert "name" in told  # addresses cannot be listed
            assert "server.hosts" in told
    assert not upstream.asked


async def test_our_names_may_be_known_without_any_being_listed() -> None:
    upstream = Upstream()
    async with door(upstream, {"server": {"hosts": []}}) as client:
        await client.say(b"GET /v1/models HTTP/1.1\r\nhost: evil.example\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 421 ")
    assert not upstream.asked
