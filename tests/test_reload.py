"""Signals to a running process: a reload that no client notices, and stops."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.app import App
from proxy.config import Upstream as Settings
from proxy.observe.metrics import Metrics
from proxy.server.crew import Crew
from proxy.server.reload import Reading, read_again
from proxy.server.server import running
from proxy.server.settings import longest_stop
from proxy.server.worker import Common
from proxy.upstream.upstream import Upstream
from support import (
    LAST,
    PATIENCE,
    STREAM_HEAD,
    Side,
    chunk,
    completion,
    connect,
    old_request,
    raw_upstream,
    settings,
    until,
)
from support.processes import (
    ROOT,
    Served,
    no_more_descriptors,
    opened,
    served,
    workers_of,
    write_config,
)

pytestmark = pytest.mark.anyio

DONE = b"data: [DONE]\r\n\r\n\r\n0\r\n\r\n"
UNUSED = {"base_url": "http://127.0.0.1:9", "speaks": ["2023-06-01"]}
BOTH = pytest.mark.parametrize("workers", [1, 2])


async def refused(url: str) -> None:
    """Connect until all that listened have closed; raises ConnectionRefusedError then."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(ConnectionResetError):
                (await connect(url)).writer.close()
            await asyncio.sleep(0.01)


class Service:
    """An upstream that says its name, and ends its answers when it is let on."""

    def __init__(self, name: str) -> None:
        self.go_on = asyncio.Event()
        self.closed = asyncio.Semaphore(0)
        self._text = completion(f" {name}")

    async def play(self, side: Side) -> None:
        try:
            while True:
                await side.request()
                await side.say(STREAM_HEAD + self._text)
                await self.go_on.wait()
                await side.say(LAST + chunk(b""))
        finally:
            self.closed.release()

    async def one_closed(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.closed.acquire()


class Scene:
    """A process in front of one service, whose file can be rewritten for another."""

    def __init__(self, proxy: Served, file: Path, urls: dict[str, str], workers: int) -> None:
        self.proxy = proxy
        self.file = file
        self.workers = workers
        self._urls = urls
        self._clients = AsyncExitStack()

    async def reload(self, name: str, *, group: bool = False, **more: Any) -> None:
        """Have it serve by another configuration, and wait until all of it does."""
        write_config(self.file, self._urls[name], **more)
        self.proxy.signal(signal.SIGHUP, group=group)
        await self.reloaded()

    def write(self, text: str) -> None:
        self.file.write_text(text)

    def remove(self) -> None:
        self.file.unlink()

    def never_ending_file(self) -> int:
        """Put a pipe in place of the file, see never_ending."""
        self.remove()
        return never_ending(self.file)

    async def read(self, writing: int) -> None:
        """Reload, and wait until that pipe is being read."""
        self.proxy.signal(signal.SIGHUP)
        await until(lambda: unread(writing) == 0)

    async def reloaded(self) -> None:
        for _ in range(self.workers):
            await self.proxy.logged("reloaded")

    async def client(self) -> Side:
        return await self._clients.enter_async_context(await connect(self.proxy.url))

    async def stream(self, name: str) -> Side:
        """A client whose stream has begun, at the service of that name."""
        client = await self.client()
        await self.begin(client, name)
        return client

    async def begin(self, client: Side, name: str) -> None:
        await client.say(old_request())
        assert b'"completion":" %b"' % name.encode() in await client.until(b"}\r\n\r\n")

    async def close(self) -> None:
        await self._clients.aclose()


@asynccontextmanager
async def scene(
    file: Path,
    *services: Service,
    workers: int = 1,
    within: Sequence[str] = (),
    trusted: Path | None = None,
    **more: dict[str, Any],
) -> AsyncIterator[Scene]:
    """A process that serves the first of ``services``; they are called A, B, ..."""
    async with AsyncExitStack() as stack:
        urls = {
            name: await stack.enter_async_context(raw_upstream(service.play))
            for name, service in zip("AB", services, strict=False)
        }
        write_config(file, urls["A"], **more)
        arguments = ("serve", "--config", str(file), "--workers", str(workers))
        environ = {} if trusted is None else {"SSL_CERT_FILE": str(trusted)}
        proxy = await stack.enter_async_context(served(*arguments, within=within, **environ))
        here = Scene(proxy, file, urls, workers)
        stack.push_async_callback(here.close)
        yield here


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "proxy.yaml"


def unread(pipe: int) -> int:
    """How many bytes wait in a pipe."""
    size = bytearray(4)
    fcntl.ioctl(pipe, termios.FIONREAD, size)
    return int.from_bytes(size, sys.byteorder)


def never_ending(file: Path) -> int:
    """Make a pipe with a byte in it; returns its open writing end."""
    os.mkfifo(file)
    writing = os.open(file, os.O_RDWR)  # for writing alone it would wait for a reader
    os.write(writing, b"#")
    return writing


def shared_by(worker: int) -> Path:
    """The folder of the files that a worker shares with the others."""
    maps = Path(f"/proc/{worker}/maps").read_text()
    return Path(re.findall(r"/\S+/anthropic-version-proxy-[^/]+", maps)[0])


def ignores_stops(process: int) -> bool:
    """Whether a process leaves signals to who watches over it."""
    status = Path(f"/proc/{process}/status").read_text()
    (blocked,) = re.findall(r"SigBlk:\s*(\w+)", status)
    return all(int(blocked, 16) >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM))


def takes_connections(worker: int) -> bool:
    """Whether its loop watches a socket that listens; until then it has nothing to drain."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {f"ino:{int(each[9]):x} " for each in sockets if each[3] == "0A"}
    try:
        watched = "".join(each.read_text() for each in Path(f"/proc/{worker}/fdinfo").iterdir())
    except FileNotFoundError:  # one was closed meanwhile
        return False
    return any(inode in watched for inode in listening)


async def both_at_work(process: int) -> None:
    def at_work() -> bool:
        workers = workers_of(process)
        return len(workers) == 2 and all(map(takes_connections, workers))

    async with asyncio.timeout(PATIENCE):
        while not at_work():  # noqa: ASYNC110  (nobody tells of it)
            await asyncio.sleep(0.02)


@BOTH
async def test_new_requests_go_by_the_new_file_and_open_streams_end_on_the_old(
    file: Path, workers: int
) -> None:
    old, new = Service("A"), Service("B")
    async with scene(file, old, new, workers=workers) as here:
        streaming = await here.stream("A")
        await here.reload("B")
        new.go_on.set()
        later = await here.stream("B")
        await later.until(DONE)
        assert old.closed.locked()  # nothing of the old is closed while it streams
        old.go_on.set()
        assert b'"completion":" A"' in await streaming.until(DONE)
        await old.one_closed()
        await here.begin(streaming, "B")  # the client's connection outlives the configuration
        await streaming.until(DONE)
        assert await here.proxy.stopped() == 0
    log = "".join(here.proxy.said)
    assert log.count("ended=complete") == 3
    assert "Traceback" not in log


@BOTH
async def test_a_broken_file_changes_nothing_and_is_told_whole_and_once(
    file: Path, workers: int
) -> None:
    service = Service("A")
    service.go_on.set()
    async with scene(file, service, workers=workers) as here:
        here.write("server: {prot: 1}\nroutes: []\nupstreams: {}\n")
        here.proxy.signal(signal.SIGHUP)
        await here.proxy.logged("not reloaded")
        told = "".join(here.proxy.said)
        assert f"{file}:1:10: server.prot: is not known: did you mean port?" in told
        assert f"{file}:2:9: routes: is an empty list: must be a list of routes" in told
        assert f"{file}:3:12: upstreams: is empty: name at least one upstream" in told
        await (await here.stream("A")).until(DONE)
        await here.reload("A")
        assert await here.proxy.stopped() == 0
    assert "".join(here.proxy.said).count("not reloaded") == 1


async def test_where_it_listens_stays_and_that_is_said(file: Path) -> None:
    service = Service("A")
    service.go_on.set()
    async with scene(file, service) as here:
        write_config(file, "http://127.0.0.1:9", server={"port": 1, "host": "127.0.0.2"})
        here.proxy.signal(signal.SIGHUP)
        await here.proxy.logged("WARNING", "server.host", "127.0.0.1", "until a restart")
        await here.reloaded()
        await here.reload("A")
        await (await here.stream("A")).until(DONE)


HERE: dict[str, Any] = {"host": "127.0.0.1", "port": 1}
NOWHERE = {"enabled": False}


@pytest.mark.parametrize("there", [HERE | {"host": "127.0.0.2"}, HERE | {"port": 2}, NOWHERE])
@pytest.mark.parametrize("here", [HERE, NOWHERE])
def test_what_listens_neither_moves_nor_opens_in_a_reload(
    here: dict[str, Any], there: dict[str, Any]
) -> None:
    before, now = (
        settings("http://127.0.0.1:9", more={"server": server, "admin": admin})
        for server, admin in (({"port": 8}, here), ({"host": "127.0.0.2", "port": 9}, there))
    )
    read = read_again(lambda: now, Metrics(None, None), before)
    assert read is not None
    assert read.server == before.server
    enabled = NOWHERE not in (here, there)
    assert read.admin == replace(before.admin, enabled=enabled)


def test_an_upstream_whose_tls_cannot_log_its_keys_is_not_reloaded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", "/nowhere/keys")
    before, now = settings("http://127.0.0.1:9"), settings("https://127.0.0.1:9")
    read = threading.Event()
    reading = Reading(lambda: now, read.set)
    assert read.wait(PATIENCE)
    assert read_again(reading.config, Metrics(None, None), before) is None
    assert caplog.messages == [
        "SSLKEYLOGFILE /nowhere/keys cannot be written: No such file or directory",
        "not reloaded: the configuration stays as it was",
    ]


async def test_the_limit_counts_the_exchanges_of_all_configurations(file: Path) -> None:
    one, two = ({"concurrent_exchanges": count} for count in (1, 2))
    async with scene(file, Service("A"), Service("B"), limits=one) as here:
        await here.stream("A")
        await here.reload("B", limits=one)
        refused = await here.client()
        await refused.say(old_request())
        assert (await refused.head()).startswith(b"HTTP/1.1 503 ")
        await here.reload("B", limits=two)
        await here.stream("B")


async def test_a_drain_waits_for_the_exchanges_of_all_configurations(file: Path) -> None:
    old, new = Service("A"), Service("B")
    async with scene(file, old, new) as here:
        streams = [await here.stream("A")]
        await here.reload("B")
        streams.append(await here.stream("B"))
        here.proxy.signal(signal.SIGTERM)
        await here.proxy.logged("draining: 2 exchanges")
        old.go_on.set()
        new.go_on.set()
        for stream in streams:
            assert b'"stop_reason":"stop_sequence"' in await stream.until(DONE)
        assert await here.proxy.ended() == 0
    assert "".join(here.proxy.said).count("ended=complete") == 2


async def test_a_drain_lasts_as_long_as_the_file_says_now(file: Path) -> None:
    async with scene(file, Service("A"), workers=2, server={"port": 0, "drain": 300}) as here:
        stream = await here.stream("A")
        await here.reload("A", server={"port": 0, "drain": 0})
        here.proxy.signal(signal.SIGTERM)
        assert b"the proxy is shutting down" in await stream.until(DONE)
        assert await here.proxy.ended() == 0


def test_workers_that_still_have_the_file_before_may_drain_as_long_as_it_says() -> None:
    """They may wait for an upstream's models before they take up the new one."""
    before, now = (settings("http://h", more={"server": {"drain": n}}) for n in (300, 0))
    with socket.socket() as listener:
        crew = Crew(before, Common(listener, None, None))
        crew.reload(now)
    assert crew.longest_stop == longest_stop(before)


@BOTH
async def test_while_it_drains_connections_are_refused(file: Path, workers: int) -> None:
    service = Service("A")
    async with scene(file, service, workers=workers, server={"port": 0, "drain": 300}) as here:
        stream = await here.stream("A")
        here.proxy.signal(signal.SIGTERM)
        for _ in range(workers):
            await here.proxy.logged("draining")
        with pytest.raises(ConnectionRefusedError):
            await refused(here.proxy.url)
        service.go_on.set()
        assert b'"stop_reason":"stop_sequence"' in await stream.until(DONE)
        assert await here.proxy.ended() == 0


@BOTH
async def test_told_twice_to_stop_it_finishes_its_streams_as_failed_and_ends(
    file: Path, workers: int
) -> None:
    async with scene(file, Service("A"), workers=workers, server={"port": 0, "drain": 300}) as here:
        stream = await here.stream("A")
        here.proxy.signal(signal.SIGTERM)
        for _ in range(workers):
            await here.proxy.logged("draining")
        here.proxy.signal(signal.SIGTERM)
        assert b'"exception":"overloaded_error: ' in await stream.until(DONE)
        assert await here.proxy.ended() == 0
    assert "ended=drained" in "".join(here.proxy.said)


@BOTH
async def test_a_file_that_cannot_be_read_to_its_end_keeps_no_process_alive(
    file: Path, workers: int
) -> None:
    async with scene(file, Service("A"), workers=workers) as here:
        writing = here.never_ending_file()
        await here.read(writing)
        assert await here.proxy.stopped() == 0
        os.close(writing)


@BOTH
async def test_nor_do_certificates_that_cannot_be_read_to_their_end(
    file: Path, tmp_path: Path, workers: int
) -> None:
    trusted = tmp_path / "trusted.pem"
    async with scene(file, Service("A"), workers=workers, trusted=trusted) as here:
        if workers > 1:  # one that has not begun would begin with these certificates
            await both_at_work(here.proxy.process.pid)
        writing = never_ending(trusted)
        write_config(file, "https://127.0.0.1:9")
        await here.read(writing)
        assert await here.proxy.stopped() == 0
        os.close(writing)
    assert "is killed" not in "".join(here.proxy.said)


async def test_while_a_file_is_read_that_never_ends_dead_workers_are_replaced(file: Path) -> None:
    service = Service("A")
    service.go_on.set()
    async with scene(file, service, workers=2) as here:
        await both_at_work(here.proxy.process.pid)
        writing = here.never_ending_file()
        await here.read(writing)
        os.kill(workers_of(here.proxy.process.pid)[0], signal.SIGKILL)
        await here.proxy.logged("a worker has ended with code -9: it is replaced")
        await both_at_work(here.proxy.process.pid)
        await (await here.stream("A")).until(DONE)
        os.close(writing)
        assert await here.proxy.stopped() == 0


IMPATIENT = """
import sys
from proxy.cli.cli import main
from proxy.server import reload

def working(load, then=reload._working):
    reload.PATIENCE = 60
    return then(load)

reload.PATIENCE, reload._working = 0, working
sys.exit(main(sys.argv[4:]))
"""
"""Gives up the first reading at once."""


NO_TIME_FOR_CERTIFICATES = """
import sys
from proxy import app
from proxy.cli.cli import main

app.CONNECT_WITHIN = 0
sys.exit(main(sys.argv[4:]))
"""


async def test_certificates_that_take_too_long_leave_the_old_ones_in_force(file: Path) -> None:
    service = Service("A")
    service.go_on.set()
    impatient = (sys.executable, "-c", NO_TIME_FOR_CERTIFICATES)
    async with scene(file, service, within=impatient) as here:
        for _ in range(2):
            write_config(file, "https://127.0.0.1:9")
            here.proxy.signal(signal.SIGHUP)
            await here.proxy.logged(
                "not reloaded: trusted certificates could not be read within 0 seconds"
            )
            await (await here.stream("A")).until(DONE)
        assert await here.proxy.stopped() == 0
    assert "Traceback" not in "".join(here.proxy.said)


@BOTH
async def test_a_reading_that_never_ends_is_given_up_and_the_next_reload_counts(
    file: Path, workers: int
) -> None:
    old, new = Service("A"), Service("B")
    impatient = (sys.executable, "-c", IMPATIENT)
    async with scene(file, old, new, workers=workers, within=impatient) as here:
        stream = await here.stream("A")
        writing = here.never_ending_file()
        await here.read(writing)
        await here.proxy.logged("the configuration could not be read within 0 seconds")
        await here.proxy.logged("not reloaded: the configuration stays as it was")
        here.remove()
        await here.reload("B")
        new.go_on.set()
        await (await here.stream("B")).until(DONE)
        old.go_on.set()
        assert b'"completion":" A"' in await stream.until(DONE)
        os.close(writing)  # the reading that was given up ends now, and changes nothing
        await (await here.stream("B")).until(DONE)
        assert await here.proxy.stopped() == 0
    log = "".join(here.proxy.said)
    assert log.count("not reloaded") == 1
    assert "Traceback" not in log


async def test_told_twice_to_stop_it_waits_for_no_client_that_takes_nothing(file: Path) -> None:
    service = Service("A")

    async def endless(side: Side) -> None:
        await side.head()
        await side.say(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (64 << 20))

    service.play = endless  # type: ignore[method-assign]
    async with scene(file, service, server={"port": 0, "drain": 300}) as here:
        client = await here.client()
        await client.say(b"GET /v1/files HTTP/1.1\r\nhost: proxy\r\n\r\n")
        await client.head()
        here.proxy.signal(signal.SIGTERM)
        await here.proxy.logged("draining: 1 exchanges")
        here.proxy.signal(signal.SIGTERM)
        assert await here.proxy.ended() == 0


async def test_told_twice_to_stop_it_waits_for_nobody_at_the_port_of_admin_either(
    file: Path,
) -> None:
    patient = {"port": 0, "drain": 300}
    async with (
        scene(file, Service("A"), server=patient, admin={"port": 0}) as here,
        await connect(here.proxy.admin) as client,
    ):
        await client.say(
            b"POST /-/explain HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 2\r\nexpect: 100-continue\r\n\r\n"
        )
        await client.until(b" 100 Continue\r\n")
        here.proxy.signal(signal.SIGTERM)
        await here.proxy.logged("draining")
        here.proxy.signal(signal.SIGTERM)
        assert await here.proxy.ended() == 0
    assert " ERROR " not in "".join(here.proxy.said)


@BOTH
async def test_a_signal_to_the_whole_group_is_one_signal(file: Path, workers: int) -> None:
    """A terminal and a service manager tell the workers, too."""
    service = Service("A")
    async with scene(file, service, workers=workers, server={"port": 0, "drain": 300}) as here:
        stream = await here.stream("A")
        here.proxy.signal(signal.SIGHUP, group=True)
        await here.reloaded()
        here.proxy.signal(signal.SIGINT, group=True)
        for _ in range(workers):
            await here.proxy.logged("draining")
        service.go_on.set()
        assert b'"stop_reason":"stop_sequence"' in await stream.until(DONE)
        assert await here.proxy.ended() == 0


async def test_a_worker_that_died_comes_back_with_the_configuration_in_force(file: Path) -> None:
    new = Service("B")
    new.go_on.set()
    async with scene(file, Service("A"), new, workers=2) as here:
        watcher = here.proxy.process.pid
        await both_at_work(watcher)  # and the tracker of resources, which the signal must not end
        assert all(ignores_stops(worker) for worker in workers_of(watcher))
        await here.reload("B", group=True)
        here.write("broken")
        one, another = workers_of(watcher)
        before = opened(watcher)
        with no_more_descriptors(watcher, but=3):  # enough for the pipe to a worker alone
            os.kill(one, signal.SIGKILL)
            await here.proxy.logged("a worker has ended with code -9")
            await here.proxy.logged("no worker can be started yet: Too many open files")
            await (await here.stream("B")).until(DONE)
        await both_at_work(watcher)
        os.kill(another, signal.SIGKILL)
        await here.proxy.logged("a worker has ended with code -9")
        await (await here.stream("B")).until(DONE)
        await both_at_work(watcher)
        assert all(ignores_stops(worker) for worker in workers_of(watcher))
        await until(lambda: opened(watcher) == before)  # nothing is kept of who has ended
        assert await here.proxy.stopped() == 0
    assert "resource_tracker" not in "".join(here.proxy.said)
    assert "".join(here.proxy.said).count("no worker can be started") == 1


UNHEARD = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a program as some parents do: with signals blocked, and without news of its children."""


@BOTH
async def test_what_a_parent_blocks_or_ignores_is_heard(file: Path, workers: int) -> None:
    write_config(file, "http://127.0.0.1:9")
    command = ("serve", "--config", str(file), "--workers", str(workers))
    async with served(*command, within=(sys.executable, "-c", UNHEARD)) as proxy:
        if workers > 1:
            await both_at_work(proxy.process.pid)
            os.kill(workers_of(proxy.process.pid)[0], signal.SIGKILL)
            await proxy.logged("a worker has ended with code -9")
            await both_at_work(proxy.process.pid)
        proxy.signal(signal.SIGHUP)
        for _ in range(workers):
            await proxy.logged("reloaded")
        assert await proxy.stopped() == 0


async def test_no_storm_of_signals_and_no_frozen_worker_hides_a_stop(file: Path) -> None:
    """Far more than the socket takes that wakes the process, and a file than a worker's pipe."""
    routes = [{"path": f"/v1/{number}", "upstream": "api"} for number in range(200)]
    long = UNUSED | {"headers": {"set": {"x-long": "x" * 100_000}}}
    async with scene(file, Service("A"), workers=2) as here:
        await here.reload("A", routes=routes, upstreams={"api": long})
        frozen = workers_of(here.proxy.process.pid)[0]
        os.kill(frozen, signal.SIGSTOP)
        here.workers -= 1
        for _ in range(2):  # one fills the pipe, and one waits for that
            await here.reload("A", routes=routes, upstreams={"api": long})
        for _ in range(20_000):
            here.proxy.signal(signal.SIGHUP)
        here.proxy.signal(signal.SIGTERM)
        await here.proxy.logged("draining")
        os.kill(frozen, signal.SIGCONT)
        assert await here.proxy.ended() == 0
    assert "Traceback" not in "".join(here.proxy.said)
    assert "a worker has ended" not in "".join(here.proxy.said)


async def test_a_worker_that_hangs_is_killed_once_its_time_is_over(file: Path) -> None:
    async with scene(file, Service("A"), workers=2, server={"port": 0, "drain": 0}) as here:
        await both_at_work(here.proxy.process.pid)
        os.kill(workers_of(here.proxy.process.pid)[0], signal.SIGSTOP)
        assert await here.proxy.stopped() == 0
    assert "".join(here.proxy.said).count("a worker that did not stop in time is killed") == 1


EARLY = """
import os, signal
from proxy.server import supervisor

def load():
    os.kill(os.getpid(), signal.SIGHUP)
    raise SystemExit

supervisor.serve(load)
"""


def test_a_reload_that_is_asked_for_during_the_start_ends_nothing() -> None:
    subprocess.run((sys.executable, "-c", EARLY), cwd=ROOT, check=True, timeout=PATIENCE)


async def test_workers_whose_supervisor_died_finish_their_streams_and_end(file: Path) -> None:
    service = Service("A")
    async with scene(file, service, workers=2) as here:
        stream = await here.stream("A")
        await both_at_work(here.proxy.process.pid)
        shared = shared_by(workers_of(here.proxy.process.pid)[0])
        here.proxy.signal(signal.SIGKILL)
        for _ in range(2):
            await here.proxy.logged("draining")
        service.go_on.set()
        assert b'"stop_reason":"stop_sequence"' in await stream.until(DONE)
        await here.proxy.silent()
        await until(lambda: not shared.exists())


async def test_a_fault_in_a_reload_leaves_the_old_configuration_in_force() -> None:
    service = Service("A")
    service.go_on.set()
    made: list[Upstream] = []

    def connected(upstream: Settings) -> Upstream:
        if made:
            raise ZeroDivisionError
        made.append(Upstream(upstream))
        return made[0]

    async with raw_upstream(service.play) as upstream:
        config = settings(upstream)
        app = App(config, connect=connected)
        async with running(app) as url, await connect(url) as client:
            with pytest.raises(ZeroDivisionError):
                await app.reload(settings("http://127.0.0.1:9"))
            assert app.config is config
            await client.say(old_request())
            await client.until(DONE)


async def test_others_are_served_while_a_reload_reads_the_certificates_to_trust() -> None:
    """It takes tens of milliseconds for each upstream."""
    begun, others_were_served = threading.Event(), threading.Event()
    made = 0

    def connected(upstream: Settings) -> Upstream:
        nonlocal made
        made += 1
        if made > 1:
            begun.set()
            assert others_were_served.wait(PATIENCE / 4)
        return Upstream(upstream)

    config = settings("http://127.0.0.1:9")
    app = App(config, connect=connected)
    async with running(app) as url, await connect(url) as client:
        reloading = asyncio.create_task(app.reload(settings("http://127.0.0.1:9")))
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        await client.say(b"GET /-/ready HTTP/1.1\r\nhost: proxy\r\n\r\n")
        await client.until(b"ready\n")
        others_were_served.set()
        await reloading
        assert app.config is not config


async def test_workers_that_cannot_all_be_started_leave_none_behind(file: Path) -> None:
    write_config(file, "http://127.0.0.1:9")
    few_files = ("sh", "-c", 'ulimit -n 22 && exec "$@"', "sh")  # for a few workers of these
    arguments = ("serve", "--config", str(file), "--workers", "6")
    async with served(*arguments, within=few_files) as proxy:
        assert await proxy.ended() == 1
        assert "Too many open files" in "".join(proxy.said)
