"""Keys appear nowhere but in requests to the upstream: in no log, error, summary or repr.

Each key contains a mark, and all that the process writes is searched for all marks. The only
exception is what an upstream itself answers to the client that sent the key.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from proxy import config
from proxy.app import App
from proxy.config.summary import served as served_as
from proxy.config.summary import summary
from proxy.core.errors import ConfigError
from proxy.core.redaction import HIDDEN
from proxy.exchange.exchange import Exchange
from proxy.exchange.learning import learned
from proxy.observe.logs import FORMATS, to_stderr
from proxy.server.server import running
from proxy.translation.stream import StreamTranslation
from proxy.upstream.upstream import Upstream
from support import (
    LAST,
    STREAM_HEAD,
    Side,
    chunk,
    completion,
    connect,
    raw_upstream,
)
from support.processes import ROOT, served

pytestmark = pytest.mark.anyio

OURS = "canary-of-the-operator"
FIELD = "canary-of-a-field"
CLIENTS = "canary-of-the-client"
MARKS = (OURS, FIELD, CLIENTS)

LOOKS_LIKE_ONE = b"sk-ant-api03-" + CLIENTS.encode()
"""A key where only its looks tell that it is one."""

KEYS = {"KEY": OURS, "FIELD": FIELD}


class WholeLog(logging.Handler):
    """All that is logged by anyone at any level, as it would be written in each format."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self._formatters = [kind() for kind in FORMATS.values()]
        self.lines: list[str] = []

    def assert_clean(self) -> None:
        """Nothing that was logged holds a mark."""
        assert_clean("\n".join(self.lines))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += [formatter.format(record) for formatter in self._formatters]


@pytest.fixture
def whole_log() -> Iterator[WholeLog]:
    """The whole log of a test."""
    handler = WholeLog()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def assert_clean(text: str, *marks: str) -> None:
    """No mark stands in a text."""
    assert not [mark for mark in marks or MARKS if mark in text], text


def text_of(upstream: str, credentials: object = "as_is", *, bridge: bool = False) -> str:
    """A configuration with a key in a header field, and perhaps one as credentials."""
    complete: dict[str, Any] = {"path": "/v1/complete", "methods": ["POST"], "upstream": "api"}
    return json.dumps(
        {
            "server": {"port": 0},
            "upstreams": {
                "api": {
                    "base_url": upstream,
                    "speaks": ["2023-06-01"],
                    "credentials": credentials,
                    "timeouts": {"first_byte": 0.1, "idle": 0.1},
                    "headers": {"set": {"x-secret": "${FIELD}"}},
                }
            },
            "limits": {"request_body": 4096, "header_bytes": 4096},
            "routes": [
                complete | ({"bridge": "messages"} if bridge else {}),
                {"path": "/v1/{rest:path}", "methods": ["POST", "GET"], "upstream": "api"},
            ],
        }
    )


def settings(
    upstream: str, credentials: object = "as_is", *, bridge: bool = False
) -> config.Config:
    return config.parse(text_of(upstream, credentials, bridge=bridge), "test", KEYS)


def request(
    line: bytes = b"POST /v1/complete",
    *,
    field: bytes = b"x-api-key: " + CLIENTS.encode(),
    body: bytes | None = None,
    **more: object,
) -> bytes:
    """A request with the client's key in a field."""
    call = {"model": "claude-v1", "max_tokens_to_sample": 9, "stream": True}
    call |= {"prompt": "\n\nHuman: Hi\n\nAssistant:", **more}
    sent = json.dumps(call).encode() if body is None else body
    head = b"%b HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n%b\r\ncontent-length: %d\r\n\r\n"
    return head % (line, field, len(sent)) + sent


def answer(status: int, body: bytes, *more: bytes) -> bytes:
    """A whole answer."""
    head = [b"HTTP/1.1 %d X" % status, *more, b"content-length: %d" % len(body)]
    return b"\r\n".join((*head, b"", body))


def error_event(words: str) -> bytes:
    error = {"type": "error", "error": {"type": "api_error", "message": words}}
    return chunk(f"event: error\ndata: {json.dumps(error)}\n\n".encode())


ECHO = f"invalid x-api-key: {OURS} {FIELD} {CLIENTS}"
"""What an upstream may say of the keys that it got."""

ANSWERS = {
    "an answer": STREAM_HEAD + completion(" Hi") + LAST + chunk(b""),
    "an error": answer(401, json.dumps({"error": {"type": "e", "message": ECHO}}).encode()),
    "an error in plain text": answer(500, ECHO.encode()),
    "an error type": answer(400, json.dumps({"error": {"type": ECHO, "message": "m"}}).encode()),
    "a cut error": answer(401, ECHO.encode())[:-9],
    "a field": answer(401, b"{}", b"x-echo: " + ECHO.encode()),
    "a first event": STREAM_HEAD + error_event(ECHO) + chunk(b""),
    "a later event": STREAM_HEAD + completion(" Hi") + error_event(ECHO) + chunk(b""),
    "a cut stream": STREAM_HEAD + completion(f" {ECHO}"),
    "a redirect": answer(302, ECHO.encode(), b"location: http://other/?key=" + OURS.encode()),
    "no HTTP": f"{ECHO}\r\n\r\n".encode(),
    "a bad field": answer(200, b"", b"x-echo: \x01" + ECHO.encode()),
    "bad framing": b"HTTP/1.1 200 OK\r\ncontent-length: " + ECHO.encode() + b"\r\n\r\n",
    "a bad chunk": STREAM_HEAD + ECHO.encode() + b"\r\n",
    "events without sense": STREAM_HEAD + chunk(f"data: {ECHO}\n\n".encode()) + chunk(b""),
    "silence": b"",
    "nothing": b"close",
}
"""What upstreams say; ``close`` is to say nothing and leave."""

KEY_FIELDS = {
    "x-api-key": b"x-api-key: " + CLIENTS.encode(),
    "bearer": b"authorization: Bearer " + CLIENTS.encode(),
    "both": b"x-api-key: %b\r\nauthorization: Bearer %b" % ((CLIENTS.encode(),) * 2),
    "cookie": b"cookie: key=" + CLIENTS.encode(),
}


@asynccontextmanager
async def proxy_to(
    said: bytes, credentials: object = "as_is", *, bridge: bool = False
) -> AsyncIterator[tuple[App, str, list[bytes]]]:
    """The proxy in front of an upstream that says one thing to all; and what that one heard."""
    heard: list[bytes] = []

    async def play(side: Side) -> None:
        head, body = await side.request()
        heard.append(head + body)
        if said != b"close":
            await side.say(said)
        if not said:
            await side.rest()

    async with raw_upstream(play) as upstream:
        app = App(settings(upstream, credentials, bridge=bridge))
        async with running(app) as url:
            yield app, url, heard


async def asked(url: str, sent: bytes) -> str:
    """What a client gets for what it sends, up to the end of the connection."""
    async with await connect(url) as client:
        client.writer.write(sent)
        return (await client.rest()).decode("latin-1")


@pytest.mark.parametrize("said", ANSWERS)
async def test_the_log_holds_no_key_whatever_the_upstream_says(
    whole_log: WholeLog, said: str
) -> None:
    async with proxy_to(ANSWERS[said]) as (_, url, heard):
        for field in KEY_FIELDS.values():
            await asked(url, request(field=field))
        for line in (b"POST /v1/messages", b"GET /v1/models"):
            await asked(url, request(line))
    whole_log.assert_clean()
    assert all(CLIENTS.encode() in each and FIELD.encode() in each for each in heard)
    assert "route=/v1/complete" in "\n".join(whole_log.lines)


async def test_what_an_upstream_calls_its_model_and_its_answer_is_no_key_in_the_log(
    whole_log: WholeLog,
) -> None:
    message = {
        "id": "m",
        "model": LOOKS_LIKE_ONE.decode(),
        "content": [],
        "stop_reason": "end_turn",
    }
    said = answer(
        200,
        json.dumps(message).encode(),
        b"content-type: application/json",
        b"request-id: " + LOOKS_LIKE_ONE,
    )
    async with proxy_to(said, bridge=True) as (_, url, _):
        assert "200 OK" in await asked(url, request(stream=False))
        ledger = request(b"GET /-/ledger").replace(b"host: proxy", b"host: localhost")
        shown = await asked(url, ledger)
    assert HIDDEN in shown
    assert_clean(shown)
    whole_log.assert_clean()
    lines = "\n".join(whole_log.lines)
    assert f"answered_by={HIDDEN} " in lines
    assert f"request_id={HIDDEN}\n" in lines


async def test_what_an_upstream_calls_its_coding_is_no_key_in_the_log(whole_log: WholeLog) -> None:
    said = answer(200, b"", b"content-encoding: " + LOOKS_LIKE_ONE)
    async with proxy_to(said, bridge=True) as (_, url, _):
        assert "502 Bad Gateway" in await asked(url, request(stream=False))
    whole_log.assert_clean()


@pytest.mark.parametrize("form", ["x-api-key", "bearer"])
@pytest.mark.parametrize("said", ["an answer", "an error", "a later event", "nothing"])
async def test_a_key_of_the_configuration_reaches_the_upstream_alone(
    whole_log: WholeLog, said: str, form: str
) -> None:
    async with proxy_to(ANSWERS[said], {form: "${KEY}"}, bridge=True) as (_, url, heard):
        got = await asked(url, request(field=KEY_FIELDS["both"]))
    assert got.startswith("HTTP/1.1 ")
    assert all(OURS.encode() in each and CLIENTS.encode() not in each for each in heard)
    if said in ("an answer", "nothing"):
        assert_clean(got)
    whole_log.assert_clean()


REFUSED = {
    "no JSON": request(body=b'{"prompt": "' + CLIENTS.encode()),
    "no dialogue": request(prompt=CLIENTS),
    "wrong type": request(model={CLIENTS: CLIENTS}, max_tokens_to_sample=CLIENTS),
    "unknown parameter value": request(temperature=CLIENTS, top_k=CLIENTS, stop_sequences=CLIENTS),
    "no UTF-8": request(body=b"\xff" + CLIENTS.encode()),
    "too large a body": request(body=CLIENTS.encode() * 400),
    "too large a header": request(field=b"x-api-key: " + CLIENTS.encode() * 400),
    "a version that is a key": request(field=b"anthropic-version: " + CLIENTS.encode()),
    "a coding that is a key": request(field=b"content-encoding: " + CLIENTS.encode()),
    "two hosts": request(field=KEY_FIELDS["bearer"] + b"\r\nhost: other"),
    "an upgrade": request(field=KEY_FIELDS["bearer"] + b"\r\nupgrade: h2c"),
    "a key in the query": request(b"PUT /v1/complete?key=" + CLIENTS.encode()),
    "a bad head": request(field=b"x-api-key " + CLIENTS.encode()),
    "a bad length": request(field=b"content-length: " + CLIENTS.encode()),
    "a key in an unknown path": request(b"POST /other/" + LOOKS_LIKE_ONE),
    "a key in our own path": request(b"POST /-/" + LOOKS_LIKE_ONE),
    "a key in a known path": request(b"POST /v1/models/" + LOOKS_LIKE_ONE),
    "a key in a refused method": request(b"DELETE /v1/models/" + LOOKS_LIKE_ONE),
    "a key behind a long path": request(b"POST /v1/" + b"x" * 280 + LOOKS_LIKE_ONE),
    "a key for a parameter": request(metadata={LOOKS_LIKE_ONE.decode(): 1}),
    "a key for a version": request(field=b"anthropic-version: " + LOOKS_LIKE_ONE),
}
"""Requests that carry a key where none belongs."""


@pytest.mark.parametrize("sent", REFUSED)
async def test_a_request_that_is_refused_is_not_repeated(whole_log: WholeLog, sent: str) -> None:
    async with proxy_to(b"close", bridge=True) as (_, url, _):
        got = await asked(url, REFUSED[sent])
    assert got.startswith("HTTP/1.1 ")
    assert_clean(got)
    whole_log.assert_clean()


async def test_keys_in_queries_pass_and_are_not_logged(whole_log: WholeLog) -> None:
    async with proxy_to(ANSWERS["an answer"]) as (_, url, heard):
        for line in (b"POST /v1/complete?key=", b"GET /v1/models?key="):
            await asked(url, request(line + CLIENTS.encode(), field=b"accept: */*"))
    assert [CLIENTS.encode() in each for each in heard] == [True, True]
    whole_log.assert_clean()


@pytest.mark.parametrize(
    "where", [(Exchange, "_ask"), (StreamTranslation, "feed"), (Upstream, "call")]
)
async def test_a_fault_of_ours_tells_where_it_arose_and_quotes_nothing(
    whole_log: WholeLog, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str]
) -> None:
    def fault(*_: object) -> None:
        raise KeyError(ECHO) from ValueError(ECHO)

    monkeypatch.setattr(*where, fault)
    async with proxy_to(ANSWERS["an answer"]) as (_, url, _):
        got = await asked(url, request(field=KEY_FIELDS["both"]))
    assert_clean(got)
    log = "\n".join(whole_log.lines)
    assert "ended=crashed" in log
    assert "KeyError" in log
    assert "in fault" in log
    whole_log.assert_clean()


def test_what_the_loop_says_of_a_fault_quotes_nothing(
    whole_log: WholeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_log = logging.getLogger("asyncio")
    monkeypatch.setattr(loop_log, "filters", [])
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    to_stderr()

    async def failing() -> None:
        raise KeyError(ECHO)

    def called(_: str) -> None:
        raise KeyError(ECHO)

    async def forgetting() -> None:
        asyncio.get_running_loop().call_soon(called, ECHO)
        await asyncio.wait([asyncio.create_task(failing())])

    uvloop.run(forgetting())
    gc.collect()
    log = "\n".join(whole_log.lines)
    assert "never retrieved" in log
    assert "Exception in callback" in log
    assert "in failing" in log
    assert "in called" in log
    whole_log.assert_clean()


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:9", "https://127.0.0.1:9"])
async def test_an_upstream_that_cannot_be_reached_costs_no_key(
    whole_log: WholeLog, base_url: str
) -> None:
    async with running(App(settings(base_url, {"bearer": "${KEY}"}))) as url:
        got = await asked(url, request(field=KEY_FIELDS["both"]))
    assert got.startswith("HTTP/1.1 502 ")
    assert_clean(got)
    whole_log.assert_clean()


async def test_asking_for_models_costs_no_key(whole_log: WholeLog) -> None:
    async with proxy_to(ANSWERS["an error"], {"bearer": "${KEY}"}, bridge=True) as (app, _, _):
        upstream = Upstream(app.config.upstreams["api"])
        assert await learned(app.config, {"api": upstream}) == {"api": {}}
        upstream.close()
    whole_log.assert_clean()


async def test_nothing_shows_a_key_of_the_configuration() -> None:
    loaded = settings("http://127.0.0.1:9", {"bearer": "${KEY}"})
    upstream = Upstream(loaded.upstreams["api"])
    for shown in (loaded, loaded.upstreams, loaded.upstreams["api"], upstream, App(loaded)):
        assert_clean(f"{shown} {shown!r}")
    upstream.close()
    with pytest.raises(TypeError) as raised:
        sorted([loaded.upstreams["api"].credentials.key, loaded.upstreams["api"].credentials.key])  # type: ignore[type-var]
    assert_clean(str(raised.value))


WRONG_PLACES = [
    "server: {port: K}",
    "server: {drain: K}",
    "version_when_missing: K",
    "unknown_versions: K",
    "upstreams: {K: {}}",
    "upstreams: {a: K}",
    "upstreams: {a: {base_url: K}}",
    'upstreams: {a: {base_url: "http://u:K@host"}}',
    'upstreams: {a: {base_url: "http://host/?key=K"}}',
    "upstreams: {a: {speaks: K}}",
    "upstreams: {a: {speaks: [K]}}",
    "upstreams: {a: {credentials: K}}",
    "upstreams: {a: {credentials: {x-api-key: [K]}}}",
    "upstreams: {a: {credentials: {x-api-key: 'K K'}}}",
    "upstreams: {a: {credentials: {bearer: K, x-api-key: K}}}",
    "upstreams: {a: {timeouts: {idle: K}}}",
    "upstreams: {a: {headers: {set: {authorization: K}}}}",
    "upstreams: {a: {headers: {set: {x-a: [K]}}}}",
    "upstreams: {a: {headers: {remove: ['K K']}}}",
    "upstreams: {a: {headers: 'x-api-key: K'}}",
    "upstreams: {a: {headers: {set: 'x-api-key: K'}}}",
    "models: {m: {to: [K]}}",
    "models: {m: {to: m, max_tokens: K}}",
    "routes: [{path: K}]",
    "routes: [{path: /, methods: [K]}]",
    "routes: [{path: /, upstream: K}]",
    "routes: [{path: /, bridge: K}]",
    "limits: {event: K}",
    "admin: {enabled: K}",
    "key: K",
    "upstreams: {a: {x-api-key: K}}",
    "upstreams: {a: {credentials: !K x}}",
    "upstreams: {a: {credentials: *K}}",
    "upstreams: {a: {credentials: {x-api-key: @K}}}",
]


@pytest.mark.parametrize("text", WRONG_PLACES)
def test_a_problem_of_a_file_never_repeats_what_came_from_the_environment(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.parse(text.replace("K", '"${KEY}"' if "'" not in text else "${KEY}"), "f", KEYS)
    assert_clean(str(raised.value))


def test_a_key_does_not_belong_in_the_url_of_an_upstream() -> None:
    text = "upstreams: {a: {base_url: 'https://host/sk-ant-api03-K/v1'}}".replace("K", OURS)
    with pytest.raises(ConfigError, match="write it under credentials") as raised:
        config.parse(text, "f", {})
    assert_clean(str(raised.value))


LITERAL = [text for text in WRONG_PLACES if "x-api-key" in text or "credentials" in text]


@pytest.mark.parametrize("text", LITERAL)
def test_a_problem_of_a_file_never_repeats_a_key_that_is_written_there(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.parse(text.replace("K", OURS), "f", {})
    assert_clean(str(raised.value))


@pytest.mark.parametrize(
    "text",
    [
        "upstreams: {a: {credentials: {K: a, K: b}}}",
        "upstreams: {a: {headers: {remove: [K, K]}}}",
        "upstreams: {a: {headers: {set: {K: a}, remove: [K]}}}",
        "{upstreams: {K: {}}, routes: [{path: /, upstream: a}]}",
        "upstreams: {a: {timeouts: 'x-api-key: K'}}",
        "upstreams: {a: {speaks: K}}",
        "routes: [{path: /, upstream: '${X:-K}'}]",
        "K: 1",
    ],
)
def test_what_looks_like_a_key_is_repeated_from_no_place_of_a_file(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.parse(text.replace("K", LOOKS_LIKE_ONE.decode()), "f", {})
    assert_clean(str(raised.value))


def test_what_looks_like_a_key_is_in_no_summary() -> None:
    text = """{
        upstreams: {K: {base_url: "http://a", speaks: [2023-06-01], headers: {set: {K: a}}}},
        routes: [{name: K, path: /K, upstream: K, bridge: messages, upstream_path: /v1/complete}],
        models: {K: {to: K, max_tokens: 9}},
    }"""
    read = config.parse(text.replace("K", LOOKS_LIKE_ONE.decode()), "f", {})
    text = "\n".join([summary(read), *served_as(read)])
    assert text.count(HIDDEN) == 12
    assert_clean(text)


def ran(*arguments: str, said: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """A command that runs to its end."""
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        cwd=ROOT,
        env={**environ, "PATH": ""},
        input=said,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_commands_show_no_key(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(text_of("http://127.0.0.1:9", {"bearer": "${KEY}"}, bridge=True))
    call = '{"model": "m", "prompt": "\\n\\nHuman: Hi\\n\\nAssistant:", "max_tokens_to_sample": 1}'
    checked = ran("check", str(file), **KEYS)
    explained = ran("explain", "--config", str(file), said=call, **KEYS)
    unset = ran("check", str(file), KEY=OURS)
    broken = ran("explain", "--config", str(file), said=f'{{"{CLIENTS}', **KEYS)
    assert [done.returncode for done in (checked, explained, unset, broken)] == [0, 0, 1, 1]
    for done in (checked, explained, unset, broken):
        assert_clean(done.stdout + done.stderr)


ASKED = [
    "/-/metrics",
    "/-/ledger",
    "/-/ledger?format=html",
    "/-/ledger?format=csv",
    "/-/ready",
    "/-/healthy",
]
PLAYED = ["/-/explain", "/-/playground"]


async def admin_pages(url: str) -> list[str]:
    """All that is under /-/, asked for by one who sends keys, too."""
    both = KEY_FIELDS["both"]
    sent = [request(f"GET {path}".encode(), field=both, body=b"") for path in ASKED]
    typed = both + b"\r\ncontent-type: application/json"
    sent += [request(f"POST {path}".encode(), field=typed) for path in PLAYED]
    ours = [each.replace(b"host: proxy", b"host: localhost") for each in sent]
    return [await asked(url, each) for each in ours]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("bridge", [False, True], ids=["native", "bridge"])
async def test_a_process_writes_no_key_from_its_start_to_its_end(
    tmp_path: Path, form: str, *, bridge: bool
) -> None:
    """Neither in its log, nor in its figures and pages, nor in its traces."""
    answers = list(ANSWERS.values())

    async def play(side: Side) -> None:
        while True:
            head, _ = await side.request()
            number = head.lower().partition(b"\r\nx-number: ")[2].partition(b"\r\n")[0]
            said = answers[int(number)] if number else ANSWERS["an answer"]
            if said == b"close":
                return
            await side.say(said)

    file = tmp_path / "proxy.yaml"
    async with raw_upstream(play) as upstream:
        text = text_of(upstream, {"bearer": "${KEY}"}, bridge=bridge)
        await asyncio.to_thread(file.write_text, text)
        environ = {**KEYS, "PROXY_LOG_LEVEL": "DEBUG", "PROXY_LOG_FORMAT": form}
        environ["OTEL_TRACES_EXPORTER"] = "console"
        async with served("serve", "--config", str(file), **environ) as proxy:
            for number in range(len(answers)):
                field = KEY_FIELDS["both"] + b"\r\nx-number: %d" % number
                for line in (b"POST /v1/complete", b"POST /v1/messages"):
                    await asked(proxy.url, request(line, field=field))
            for sent in REFUSED.values():
                assert_clean(await asked(proxy.url, sent))
            for page in await admin_pages(proxy.url):
                assert page.startswith("HTTP/1.1 200 OK\r\n"), page
                assert_clean(page)
            assert await proxy.stopped() == 0
    written = proxy.printed + "".join(proxy.said)
    mark = {"text": "ended=", "json": '"ended":'}[form]
    assert written.count(mark) > 2 * len(ANSWERS)
    assert '"name": "POST /v1/complete"' in proxy.printed
    assert_clean(written)
