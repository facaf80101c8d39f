"""The metrics: correct sums over all workers, bounded, and without content of requests."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.app import App
from proxy.observe.metrics import COMBINATIONS, KINDS, PREFIX, Metrics
from proxy.observe.record import Record
from proxy.observe.sharedmetrics import SPACE, reserve
from proxy.server.server import running
from support import (
    LAST,
    PATIENCE,
    STREAM_HEAD,
    Play,
    Side,
    chunk,
    completion,
    connect,
    happened,
    old_request,
    raw_upstream,
    settings,
)
from support.processes import Served, no_more_descriptors, served, workers_of, write_config

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent
DASHBOARDS = sorted((ROOT / "config" / "grafana").glob("*.json"))
DONE = b"data: [DONE]\r\n\r\n\r\n0\r\n\r\n"
OLD = {"route": "complete", "client_version": "2023-01-01", "upstream_version": "2023-06-01"}
EVERY = "/{rest:path}"


class Figures:
    """One page of metrics."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.families = {family.name: family for family in text_string_to_metric_families(page)}

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name which have these labels."""
        return sum(
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == f"{PREFIX}_{name}" and labels.items() <= sample.labels.items()
        )

    def labels(self, name: str, label: str) -> set[str]:
        """The values that a label has."""
        return {
            sample.labels[label]
            for family in self.families.values()
            for sample in family.samples
            if sample.name == f"{PREFIX}_{name}"
        }


async def get(url: str, path: str) -> tuple[bytes, bytes]:
    """The head and body of an answer."""
    async with await connect(url) as client:
        await client.say(b"GET %b HTTP/1.1\r\nhost: p\r\nconnection: close\r\n\r\n" % path.encode())
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        return head, body


async def figures(url: str) -> Figures:
    head, body = await get(url, "/-/metrics")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: text/plain; version=0.0.4; charset=utf-8" in head
    return Figures(body.decode())


async def figures_when(url: str, true: Callable[[Figures], bool]) -> Figures:
    """The first page of which something is true, which nothing else tells of."""
    async with asyncio.timeout(PATIENCE):
        while not true(page := await figures(url)):  # noqa: ASYNC110  (over HTTP)
            await asyncio.sleep(0.05)
    return page


async def good(side: Side) -> None:
    """Answer each request with a stream of two events, or with bytes."""
    while True:
        head = await side.head()
        if length := re.search(rb"content-length: (\d+)", head):
            await side.reader.readexactly(int(length[1]))
        if head.startswith(b"POST /v1/complete"):
            await side.say(STREAM_HEAD + completion(" Hi") + LAST + chunk(b""))
        else:
            await side.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


def post(body: dict[str, Any], *fields: bytes) -> bytes:
    sent = json.dumps(body).encode()
    lines = [b"POST /v1/complete HTTP/1.1", b"host: p", b"content-length: %d" % len(sent), *fields]
    return b"\r\n".join((*lines, b"", sent))


@asynccontextmanager
async def proxy(play: Play, **more: Any) -> AsyncIterator[str]:
    async with raw_upstream(play) as upstream, running(App(settings(upstream, more=more))) as url:
        yield url


async def test_an_exchange_is_counted_by_who_called_and_how_it_went() -> None:
    async with proxy(good) as url, await connect(url) as client:
        for _ in range(2):
            await client.say(old_request())
            body = await client.until(DONE)
        told = await figures(url)
        sent = len(b"".join(re.findall(rb"data: .*\r\n\r\n", body)))
    client_is = {"client": "anthropic-python/0.2.8", "status": "2xx", "ended": "complete"}
    assert told.total("exchanges_total", **OLD, **client_is) == told.total("exchanges_total") == 2
    assert told.total("exchange_duration_seconds_count", route="complete", stream="true") == 2
    assert told.total("exchange_duration_seconds_bucket", le="600.0") == 2
    assert told.total("stream_first_byte_seconds_count", route="complete") == 2
    assert 0 < told.total("stream_first_byte_seconds_sum") < PATIENCE
    assert told.total("events_received_total", route="complete") == 4
    assert told.total("events_sent_total", route="complete") == 6
    assert told.total("request_bytes_total", route="complete") == 2 * len(
        old_request().partition(b"\r\n\r\n")[2]
    )
    assert told.total("response_bytes_total", route="complete") == 2 * sent
    assert told.total("upstream_response_bytes_total", route="complete") > 0
    assert told.total("upstream_connections", upstream="api", state="free") == 1
    assert told.total("upstream_connections", upstream="api", state="used") == 0
    assert told.total("build_info", version="0.1.0") == 1


async def test_what_is_left_out_and_what_fails_is_counted_by_names_of_our_own() -> None:
    made_up = b'{"type":"error","error":{"type":"SECRET_type","message":"SECRET"}}'
    answers = [
        STREAM_HEAD.replace(b"text/event-stream; charset=utf-8", b"text/html") + chunk(b""),
        b"HTTP/1.1 418 x\r\ncontent-length: %d\r\n\r\n%b" % (len(made_up), made_up),
        b"HTTP/1.1 529 x\r\ncontent-length: 0\r\n\r\n",
    ]

    async def play(side: Side) -> None:
        while True:
            await side.request()
            await side.say(answers.pop(0))

    asked = {
        "model": "SECRET",
        "prompt": "\n\nHuman: SECRET\n\nAssistant:",
        "max_tokens_to_sample": 5,
        "stream": True,
        "temperature": 1,
        "top_p": 0.5,
        "metadata": {"SECRET": 1},
        "SECRET": 1,
    }
    fields = (b"x-api-key: SECRET", b"user-agent: sk-SECRET", b"tracestate: SECRET")
    async with raw_upstream(play) as upstream:
        app = App(settings(upstream, bridge=True))
        async with running(app) as url, await connect(url) as client:
            for _ in range(3):
                await client.say(post(asked, *fields))
                await client.until(b"}}")
            await client.say(post({}, b"anthropic-version: never"))
            await client.until(b"}}")
            told = await figures(url)
    dropped = "dropped_parameters_total"
    assert told.total(dropped, route="complete", parameter="top_p") == 3
    assert told.total(dropped, parameter="other") == 6
    assert told.total(dropped, parameter="temperature") == 3
    assert told.total(dropped) == 12
    errors = {
        ("UpstreamNonsense", "api_error"),
        ("UpstreamRefused", "other"),
        ("UpstreamRefused", "overloaded_error"),
        ("InvalidVersion", "invalid_version"),
    }
    for error, kind in errors:
        assert told.total("errors_total", route="complete", error=error, type=kind) == 1
    assert told.total("errors_total") == 4
    ends = {"upstream failed": 1, "upstream refused": 2, "refused": 1}
    for ended, count in ends.items():
        assert told.total("exchanges_total", ended=ended) == count
    assert {"4xx", "5xx"} == told.labels("exchanges_total", "status")
    assert "SECRET" not in told.page


async def test_strangers_cannot_make_figures_without_end() -> None:
    async with proxy(good) as url, await connect(url) as client:
        for number in range(KINDS + 10):
            agent = b"GET /v1/x HTTP/1.1\r\nhost: p\r\nanthropic-version: 20%02d-12-31\r\n"
            agent += b"user-agent: agent-%d/1\r\n\r\n"
            await client.say(agent % (30 + number % 60, number))
            await client.until(b"ok")
        told = await figures(url)
    kinds = told.labels("exchanges_total", "client")
    assert kinds == {*(f"agent-{number}/1" for number in range(KINDS)), "other"}
    assert told.total("exchanges_total", client="other") == 10
    assert told.labels("exchanges_total", "client_version") == {"-"}


def test_clients_and_routes_together_cannot_either() -> None:
    metrics = Metrics()
    for route in range(40):
        for kind in range(KINDS):
            metrics.count(Record("POST", "/", route=str(route), client=str(kind), status=200))
    told = Figures((metrics.page() or b"").decode())
    counted = told.families[f"{PREFIX}_exchanges"].samples
    assert len(counted) <= COMBINATIONS + 40
    assert sum(sample.value for sample in counted) == 40 * KINDS


async def test_what_is_open_is_shown_while_it_is() -> None:
    go_on = asyncio.Event()

    async def play(side: Side) -> None:
        await side.head()
        await side.say(STREAM_HEAD + completion(" Hi"))
        await go_on.wait()
        await side.say(LAST + chunk(b""))

    def shown(told: Figures) -> tuple[float, ...]:
        used = told.total("upstream_connections", upstream="api", state="used")
        return told.total("open_exchanges"), told.total("open_streams"), used

    async with proxy(play) as url:
        async with await connect(url) as old, await connect(url) as new:
            await old.say(old_request())
            await old.until(b"}\r\n\r\n")
            await new.say(b"GET /v1/x HTTP/1.1\r\nhost: p\r\nanthropic-version: 2023-06-01\r\n\r\n")
            await new.until(b" Hi")  # a stream that passes through is one as well
            assert shown(await figures(url)) == (2, 2, 2)
            go_on.set()
            await old.until(DONE)
            await new.until(b"\r\n0\r\n\r\n")
        told = await figures_when(url, lambda told: shown(told) == (0, 0, 0))
    assert told.total("exchange_duration_seconds_count", stream="true", route=EVERY) == 1


# Processes.


@asynccontextmanager
async def process(
    file: Path, play: Play, *arguments: str, within: tuple[str, ...] = (), **more: Any
) -> AsyncIterator[Served]:
    """The command itself, with an address of its own for what is under /-/."""
    async with raw_upstream(play) as upstream:
        write_config(file, upstream, **{"admin": {"port": 0}, **more})
        command = ("serve", "--config", str(file), *arguments)
        async with served(*command, within=within) as here:
            yield here


async def exchange(url: str) -> None:
    async with await connect(url) as client:
        await client.say(old_request())
        await client.until(DONE)


async def test_however_many_ask_one_page_is_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread that computes holds up the streams of others."""
    two = threading.Barrier(2)
    met: list[int] = []

    def page() -> bytes:
        with suppress(threading.BrokenBarrierError):
            met.append(two.wait(0.02))
        return b"a page\n"

    app = App(settings("http://127.0.0.1:9"))
    monkeypatch.setattr(app.metrics, "page", page)
    async with running(app) as url:
        for _, body in await asyncio.gather(*(get(url, "/-/metrics") for _ in range(4))):
            assert body == b"a page\n"
    assert met == []


async def test_who_asks_for_a_page_while_one_is_made_shares_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever asks and leaves would have the others wait for ever longer."""
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    pages = 0

    def page() -> bytes:
        nonlocal pages
        pages += 1
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(PATIENCE)
        return b"page %d\n" % pages

    app = App(settings("http://127.0.0.1:9"))
    monkeypatch.setattr(app.metrics, "page", page)
    async with running(app) as url:
        first = asyncio.create_task(get(url, "/-/metrics"))
        await happened(begun)
        for _ in range(20):
            async with await connect(url) as leaving:
                await leaving.say(b"GET /-/metrics HTTP/1.1\r\nhost: proxy\r\n\r\n")
        await get(url, "/-/ready")
        go_on.set()
        assert (await first)[1] == b"page 1\n"
        assert (await get(url, "/-/metrics"))[1] in (b"page 2\n", b"page 3\n")


async def test_admin_has_a_port_of_its_own_and_answers_there_to_the_end(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    file = tmp_path / "proxy.yaml"

    async def play(side: Side) -> None:
        await side.head()
        await side.say(STREAM_HEAD + completion(" Hi"))
        await go_on.wait()
        await side.say(LAST + chunk(b""))

    async with process(file, play) as here, await connect(here.url) as client:
        for path in ("/-/metrics", "/-/healthy", "/-/x"):
            assert (await get(here.url, path))[0].startswith(b"HTTP/1.1 404 ")
        assert (await get(here.admin, "/v1/complete"))[0].startswith(b"HTTP/1.1 404 ")
        assert (await get(here.admin, "/-/ready"))[1] == b"ready\n"
        await client.say(old_request())
        await client.until(b"}\r\n\r\n")

        good = file.read_text()
        file.write_text("broken")
        here.signal(signal.SIGHUP)
        await here.logged("not reloaded")
        for moved in ({"port": 1, "host": "127.0.0.2"}, {"enabled": True}):
            file.write_text(json.dumps({**json.loads(good), "admin": moved}))
            here.signal(signal.SIGHUP)
            await here.logged("WARNING", "admin.port", "127.0.0.1 and 0", "until a restart")
            await here.logged("reloaded")
        assert (await get(here.url, "/-/metrics"))[0].startswith(b"HTTP/1.1 404 ")
        told = await figures(here.admin)
        assert told.total("config_reloads_total", result="failed") == 1
        assert told.total("config_reloads_total", result="ok") == 2

        here.signal(signal.SIGTERM)
        await here.logged("draining: 1 exchanges")
        head, body = await get(here.admin, "/-/ready")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert body == b"not ready\n"
        assert (await figures(here.admin)).total("open_streams") == 1
        go_on.set()
        await client.until(DONE)
        assert await here.ended() == 0
    assert "Traceback" not in "".join(here.said)


async def test_figures_of_all_workers_add_up_and_outlive_them(tmp_path: Path) -> None:
    forever = asyncio.Event()

    async def play(side: Side) -> None:
        if (await side.head()).startswith(b"GET /v1/forever"):
            await side.say(STREAM_HEAD + completion(" Hi"))
            await forever.wait()
        await side.say(STREAM_HEAD + completion(" Hi") + LAST + chunk(b""))

    async with process(tmp_path / "proxy.yaml", play, "--workers", "2") as here:
        for _ in range(10):
            await exchange(here.url)
        async with await connect(here.url) as client:
            await client.say(b"GET /v1/forever HTTP/1.1\r\nhost: p\r\n\r\n")
            await client.until(b" Hi")
            await figures_when(here.admin, lambda told: told.total("open_streams") == 1)
            for worker in workers_of(here.process.pid):
                os.kill(worker, signal.SIGKILL)
                await here.logged("a worker has ended with code -9")
        for _ in range(10):
            await exchange(here.url)
        for _ in range(5):  # whoever answers
            told = await figures_when(here.admin, lambda told: not told.total("open_streams"))
            assert told.total("exchanges_total", client_version="2023-01-01") == 20
            assert told.total("exchange_duration_seconds_count") == 20
            assert told.total("build_info") == 1
        here.signal(signal.SIGHUP)
        for _ in range(2):
            await here.logged("reloaded")
        assert (await figures(here.admin)).total("config_reloads_total", result="ok") == 1
        (folder,) = folders_of(here.process.pid)
        assert await here.stopped() == 0
    assert not folder.exists()
    assert "Traceback" not in "".join(here.said)


async def test_what_a_dead_worker_had_open_is_not_shown_though_none_takes_its_place(
    tmp_path: Path,
) -> None:
    async def play(side: Side) -> None:
        await side.head()
        await side.say(STREAM_HEAD + completion(" Hi"))
        await asyncio.Event().wait()

    async with process(tmp_path / "proxy.yaml", play, "--workers", "2") as here:
        await get(here.admin, "/-/ready")  # answered once both have been started
        one, another = workers_of(here.process.pid)
        os.kill(another, signal.SIGSTOP)  # so that the stream is the first one's
        async with await connect(here.url) as client:
            await client.say(b"GET /v1/forever HTTP/1.1\r\nhost: p\r\n\r\n")
            await client.until(b" Hi")
            await figures_when(here.admin, lambda told: told.total("open_streams") == 1)
            with no_more_descriptors(here.process.pid, but=3):
                os.kill(one, signal.SIGKILL)
                await here.logged("no worker can be started yet")
                os.kill(another, signal.SIGCONT)
                await figures_when(here.admin, lambda told: not told.total("open_streams"))
        assert await here.stopped() == 0


def test_what_a_dead_worker_had_open_is_not_shown_by_the_next_of_its_name(tmp_path: Path) -> None:
    """Connections to an upstream that a reload had left out were shown until a restart."""
    reserve(tmp_path, ["0"])
    code = (
        "import sys; from pathlib import Path; from proxy.observe.metrics import Metrics;"
        "name, folder = sys.argv[1:]; metrics = Metrics(Path(folder), '0');"
        "metrics.reloaded(fine=True); metrics.set_gauges(3, 2, {name: (1, 0)});"
        "sys.stdout.write(metrics.page().decode())"
    )
    for name in ("before", "now"):
        said = subprocess.check_output([sys.executable, "-c", code, name, tmp_path], text=True)
    told = said.splitlines()
    assert f'{PREFIX}_upstream_connections{{state="used",upstream="now"}} 1.0' in told
    assert not [line for line in told if "before" in line]
    assert f"{PREFIX}_open_exchanges 3.0" in told
    assert f'{PREFIX}_config_reloads_total{{result="ok"}} 2.0' in told


async def test_workers_without_a_folder_serve_and_tell_no_half_truths(tmp_path: Path) -> None:
    no_files = ("prlimit", "--fsize=0")
    file = tmp_path / "proxy.yaml"
    async with process(file, good, "--workers", "2", within=no_files) as here:
        await here.logged("WARNING", "no folder can be shared", "File too large; elsewhere: ")
        await exchange(here.url)
        head, body = await get(here.admin, "/-/metrics")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"cannot be added up" in body
        assert (await get(here.admin, "/-/ready"))[1] == b"ready\n"
        assert await here.stopped() == 0


def test_a_worker_whose_folder_was_taken_away_goes_on_without_figures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics(tmp_path / "gone", "0")
    metrics.count(Record("POST", "/"))
    assert metrics.page() is None
    assert "gone/metrics is gone" in caplog.text


async def test_workers_whose_folder_is_full_serve_and_tell_what_there_was_room_for(
    tmp_path: Path,
) -> None:
    full = ("prlimit", f"--fsize={SPACE['histogram']}")  # no file grows any more
    paths = [f"/v1/{number}" for number in range(40)]
    routes = [{"name": f"{path} {'x' * 2_000}", "path": path, "upstream": "api"} for path in paths]
    file = tmp_path / "proxy.yaml"
    async with process(file, good, "--workers", "2", within=full, routes=routes) as here:
        for path in paths:
            head, body = await get(here.url, path)
            assert (head[:12], body) == (b"HTTP/1.1 200", b"ok")
        told = await figures(here.admin)
        assert await here.stopped() == 0
    assert told.total("exchanges_total") == len(paths)
    assert 0 < told.total("exchange_duration_seconds_count") < len(paths)
    said = "".join(here.said)
    assert 1 <= said.count("no room for more figures") <= 2
    assert "has ended with code" not in said
    assert "Traceback" not in said


def folders_of(process: int) -> set[Path]:
    """Where a process has files that its workers share."""
    maps = Path(f"/proc/{process}/maps").read_text()
    return {Path(found) for found in re.findall(r"(/\S+)/metrics/\w+\.db", maps)}


# What reads the figures.


def everything() -> dict[str, set[str]]:
    """The names of all samples that there can be, and their labels."""
    metrics = Metrics()
    record = Record("POST", "/", streams=True, first_byte=0, dropped=("top_p",), error="api_error")
    record.bytes_received = record.bytes_sent = record.upstream_bytes = 1
    record.events_received = record.events_sent = 1
    metrics.count(record)
    metrics.set_gauges(1, 1, {"api": (1, 1)})
    families = text_string_to_metric_families((metrics.page() or b"").decode())
    samples = [sample for family in families for sample in family.samples]
    return {sample.name: {*sample.labels, "job", "instance"} for sample in samples}


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_asks_for_what_there_is(file: Path) -> None:
    board = json.loads(file.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    queries += [variable["query"]["query"] for variable in board["templating"]["list"][1:]]
    known = everything()
    asked = set()
    for query in queries:
        names = re.findall(rf"{PREFIX}_\w+", query)
        asked |= set(names)
        labels = re.findall(r'(\w+)!?[=~]+"', query)
        labels += re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query)))
        labels += re.findall(r", (\w+)\)$", query)
        assert names
        for name in names:
            assert set(labels) <= known[name], query
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in known}
    assert {re.sub("_bucket$", "", name) for name in asked} == shown  # and nothing is left out
    used = [panel["datasource"] for panel in panels]
    used += [target["datasource"] for panel in panels for target in panel["targets"]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in used)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_readme_lists_all_figures() -> None:
    section = (
        (ROOT / "README.md").read_text().partition("\n## See: metrics")[2].partition("\n## ")[0]
    )
    listed = re.findall(r"^\| `(\w+)`", section, re.MULTILINE)
    names = {re.sub("_(bucket|sum|count)$", "", name) for name in everything()}
    assert [f"{PREFIX}_{name}" for name in sorted(listed)] == sorted(names)
