"""The log: one line for each exchange, in either format; a slow reader blocks nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import select
import signal
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from proxy.app import App
from proxy.core.errors import LONGEST_MESSAGE, InvalidRequest
from proxy.exchange.recording import NAMED, OTHER
from proxy.observe import handlers, logs
from proxy.observe.record import LONGEST_VALUE, MOST_DROPPED, Record
from proxy.server.listeners import listen
from proxy.server.server import print_ready, running
from support import (
    LAST,
    PATIENCE,
    STREAM_HEAD,
    Side,
    chunk,
    completion,
    connect,
    old_request,
    post,
    raw_upstream,
    settings,
    until,
)
from support.processes import ROOT, served, starved, write_config

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def answering() -> AsyncIterator[str]:
    """An upstream that answers each call with a stream of two events."""

    async def play(side: Side) -> None:
        while True:
            await side.request()
            await side.say(STREAM_HEAD + completion(" Hi") + LAST + chunk(b""))

    async with raw_upstream(play) as upstream:
        yield upstream


async def answered(url: str) -> bytes:
    """What a client gets for an old call."""
    async with await connect(url) as client:
        await client.say(old_request())
        return await client.until(b"data: [DONE]\r\n\r\n")


EXCHANGE = {
    "level": "INFO",
    "logger": "proxy.exchanges",
    "message": "exchange",
    "method": "POST",
    "path": "/v1/complete",
    "route": "/{rest:path}",
    "upstream": "api",
    "client_version": "2023-01-01",
    "upstream_version": "2023-06-01",
    "changes": [
        "UnsetParametersRefused",
        "DoneEventRemoved",
        "EventsBecameNamed",
        "CompletionsBecameIncremental",
        "ExceptionAndTruncatedRemoved",
    ],
    "client": "anthropic-python/0.2.8",
    "key": "8254c329a928",
    "model": "claude-v1",
    "answered_by": None,
    "streams": True,
    "status": 200,
    "ended": "complete",
    "error": None,
    "dropped": [],
    "bytes_received": 106,
    "events_received": 2,
    "events_sent": 3,
    "request_id": "req_1",
}


async def test_a_line_of_json_tells_of_an_exchange_in_keys_that_never_change(
    tmp_path: Path,
) -> None:
    file = tmp_path / "proxy.yaml"
    began = datetime.now(UTC)
    async with answering() as upstream:
        write_config(file, upstream)
        async with served("serve", "--config", str(file), PROXY_LOG_FORMAT="json") as proxy:
            await answered(proxy.url)
            line: dict[str, Any] = json.loads(await proxy.logged("proxy.exchanges"))
            assert await proxy.stopped() == 0
    every = [json.loads(line) for line in "".join(proxy.said).splitlines()]
    assert all(list(each)[:4] == ["time", "level", "logger", "message"] for each in every)
    when = line.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", when)
    assert began - timedelta(seconds=1) < datetime.fromisoformat(when) <= datetime.now(UTC)
    assert 0 <= line.pop("first_ms") <= line.pop("ms")
    assert line.pop("bytes_sent") > line.pop("upstream_bytes") > 0
    assert line == EXCHANGE
    keys = Record("GET", "/").as_dict().keys()
    assert keys == EXCHANGE.keys() - {"level", "logger", "message"} | {
        "first_ms",
        "ms",
        "bytes_sent",
        "upstream_bytes",
    }


async def test_a_line_of_text_leaves_out_what_is_not_known() -> None:
    assert str(Record("GET", "/v1/models")) == (
        "GET /v1/models ended=complete bytes_received=0 upstream_bytes=0 bytes_sent=0 ms=0.0"
    )
    record = Record("POST", "/v1/complete\n?", dropped=("top_k", "tags"), model='a "model"')
    assert '"/v1/complete\\n?" model="a \\"model\\"" ended=complete dropped=top_k,tags' in str(
        record
    )


async def test_text_and_json_tell_the_same_in_one_order() -> None:
    record = Record("GET", "/", 0.0, client="c", key="k", route="r", upstream="u")
    record.client_version, record.upstream_version = "2023-01-01", "2023-06-01"
    record.changes, record.dropped, record.error = ("A", "B"), ("d", "e"), "wrong"
    record.model, record.answered_by, record.request_id = "m", "n", "req"
    record.streams, record.status, record.first_byte, record.seconds = True, 200, 1.0, 2.0
    told = record.as_dict()
    assert None not in told.values()
    shown = dict(word.split("=") for word in str(record).split(" ")[2:])
    assert shown.keys() == told.keys() - {"method", "path", "streams"}
    assert list(shown) == [name for name in told if name in shown]
    for name, value in shown.items():
        known = told[name]
        assert value == (",".join(known) if isinstance(known, tuple) else str(known))


async def test_what_strangers_choose_is_cut() -> None:
    long = "x" * 10_000
    record = Record(long, long, model=long, error=long, dropped=(long,) * 1000, request_id=long)
    assert len(str(record)) < 10 * LONGEST_VALUE
    assert len(json.dumps(record.as_dict())) < (MOST_DROPPED + 10) * LONGEST_VALUE


async def test_of_long_values_only_what_is_told_is_looked_through() -> None:
    long = "a model " * 10_000
    sent = old_request().partition(b"\r\n\r\n")[2].replace(b"claude-v1", long.encode())
    records: list[Record] = []
    async with answering() as upstream:
        app = App(settings(upstream))
        app.observers.append(records.append)
        async with running(app) as url, await connect(url) as client:
            await client.say(post("/v1/complete", sent))
            assert (await client.rest()).startswith(b"HTTP/1.1 200 ")
    assert records[0].model == long[:LONGEST_VALUE]
    assert len(InvalidRequest(long).message) == LONGEST_MESSAGE


async def test_the_refusal_of_a_head_request_counts_no_bytes_for_it_has_no_body() -> None:
    records: list[Record] = []
    app = App(settings("http://127.0.0.1:9"))
    app.observers.append(records.append)
    async with running(app) as url, await connect(url) as client:
        version = b"anthropic-version: none\r\n"
        close = b"connection: close\r\n"
        await client.say(b"HEAD /v1/models HTTP/1.1\r\nhost: proxy\r\n" + version + close + b"\r\n")
        assert (await client.rest()).endswith(b"\r\n\r\n")
    assert [(record.status, record.bytes_sent) for record in records] == [(400, 0)]


async def test_of_many_parameters_that_are_left_out_the_first_are_told_by_their_names() -> None:
    """To look for a key in each of a thousand long ones held up all others for 150 ms."""
    names = [f"{number} of many" for number in range(1000)]
    call = json.loads(old_request(stream=False).partition(b"\r\n\r\n")[2])
    sent = json.dumps(call | dict.fromkeys(names, 1)).encode()
    records: list[Record] = []

    async def play(side: Side) -> None:
        await side.request()
        await side.say(b"HTTP/1.1 500 Enough\r\ncontent-length: 0\r\n\r\n")

    async with raw_upstream(play) as upstream:
        app = App(settings(upstream, bridge=True))
        app.observers.append(records.append)
        async with running(app) as url, await connect(url) as client:
            await client.say(post("/v1/complete", sent))
            assert (await client.rest()).startswith(b"HTTP/1.1 500 ")
    assert records[0].dropped == (*names[:NAMED], *[OTHER] * (1000 - NAMED))


async def test_a_model_with_a_long_name_makes_no_long_head() -> None:
    start = {
        "message": {"id": "m", "model": "x" * 10_000, "content": [], "stop_reason": "end_turn"}
    }
    body = f"event: message_start\ndata: {json.dumps(start)}\n\nevent: message_stop\ndata: {{}}\n\n"

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + chunk(body.encode()) + chunk(b""))

    async with (
        raw_upstream(play) as upstream,
        running(App(settings(upstream, bridge=True))) as url,
        await connect(url) as client,
    ):
        await client.say(old_request())
        head = await client.head()
    assert b"x-proxy-model: %b\r\n" % (b"x" * LONGEST_VALUE) in head


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"PROXY_LOG_FORMAT": "xml"}, "PROXY_LOG_FORMAT is 'xml', which is none of text, json"),
        ({"PROXY_LOG_LEVEL": "LOUD"}, "PROXY_LOG_LEVEL is 'LOUD', which is no level such as INFO"),
    ],
)
async def test_a_setting_of_the_environment_that_is_wrong_is_told(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], told: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OSError, match=re.escape(told)):
        logs.to_stderr()


@asynccontextmanager
async def logging_to(
    stderr: int, file: Path, *more: str, python: Sequence[str] = ("-m", "proxy")
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A proxy that serves by ``file``, and logs to a descriptor of ours; and its URL."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *python, "serve", "--config", str(file), *more),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )
    try:
        assert process.stdout is not None
        yield process, (await process.stdout.readline()).decode().split()[-1]
    finally:
        if process.returncode is None:
            process.kill()


async def test_a_log_that_nobody_reads_costs_lines_and_no_exchange(tmp_path: Path) -> None:
    """Neither a reader that is stuck, with its pipe full, nor one that is gone is waited for."""
    file = tmp_path / "proxy.yaml"
    reading, writing = os.pipe()
    async with answering() as upstream:
        write_config(file, upstream)
        async with logging_to(writing, file) as (process, url):
            _fill(writing)
            for _ in range(3):
                assert b"[DONE]" in await answered(url)
            assert b"ended=complete" not in os.read(reading, 1 << 20)
            assert b"[DONE]" in await answered(url)
            lines, lost = b"", None
            while lost is None or int(lost[1]) + lines.count(b"ended=complete") < 4:
                lines += os.read(reading, 1 << 20)
                lost = re.search(rb" WARNING proxy (\d) lines of the log were lost\n", lines)
            os.close(reading)
            os.close(writing)
            assert b"[DONE]" in await answered(url)
            process.terminate()
            assert await process.wait() == 0
    assert int(lost[1]) >= 2  # the last of the three may have been told after its answer


@asynccontextmanager
async def serving_at_terminal(file: Path, *python: str) -> AsyncIterator[tuple[str, int]]:
    """The proxy with a terminal for its log, until it has stopped by itself: its URL, our side."""
    ours, theirs = os.openpty()
    async with answering() as upstream:
        write_config(file, upstream)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *python, "serve", "--config", str(file)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=theirs,
        )
        try:
            assert process.stdout is not None
            yield (await process.stdout.readline()).decode().split()[-1], ours
            process.terminate()
            async with asyncio.timeout(PATIENCE):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
            os.close(ours)
            os.close(theirs)


def test_a_line_that_is_cut_is_not_the_beginning_of_the_next() -> None:
    reading, writing = os.pipe()
    try:
        handler = handlers.Descriptor(writing)
        size = os.fpathconf(writing, "PC_PIPE_BUF")
        os.set_blocking(writing, False)
        while select.select([], [writing], [], 0)[1]:
            os.write(writing, b"." * size)
        os.read(reading, size)
        handler.emit(logging.makeLogRecord({"msg": "x" * 3 * size}))
        os.read(reading, 1 << 20)
        handler.emit(logging.makeLogRecord({"msg": "next"}))
        assert os.read(reading, 1 << 20) == b"\n1 lines of the log were lost\nnext\n"
    finally:
        os.close(reading)
        os.close(writing)


@pytest.fixture
def others_write_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two writes another worker gets to write a line of its own."""
    write = os.write

    def after_another(descriptor: int, data: bytes) -> int:
        write(descriptor, b"another's\n")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", after_another)


LINES = ["x" * 20_000, *(f"{number} " + "y" * 300 for number in range(40))]
"""More than is written or read in one piece, which does not end where a line does."""


def unmixed(written: bytes) -> list[str]:
    """The lines that are not another worker's."""
    return [line for line in written.decode().splitlines() if line != "another's"]


@pytest.mark.usefixtures("others_write_between")
def test_the_lines_of_several_workers_do_not_mix(tmp_path: Path) -> None:
    with (tmp_path / "log").open("ab") as log:
        handler = handlers.Descriptor(log.fileno())
        for line in LINES:
            handler.emit(logging.makeLogRecord({"msg": line}))
    assert unmixed((tmp_path / "log").read_bytes()) == LINES


@pytest.mark.usefixtures("others_write_between")
def test_the_lines_that_a_thread_writes_do_not_mix_either_and_all_are_written_in_the_end(
    tmp_path: Path,
) -> None:
    with (tmp_path / "log").open("ab") as log:
        handler = handlers.writing_to(log.fileno())
        for line in LINES:
            handler.emit(logging.makeLogRecord({"msg": line}))
        handler.close()
    assert unmixed((tmp_path / "log").read_bytes()) == LINES


HANGS = """
import os, sys, threading
from proxy.cli.cli import main
write = os.write
def hanging(descriptor, data):
    if descriptor == 2 and b"ended=" in data:
        threading.Event().wait()
    return write(descriptor, data)
os.write = hanging
sys.exit(main())
"""
"""The proxy where its log is in a file, on a disk that hangs as soon as an exchange is logged."""


async def test_a_log_on_a_disk_that_hangs_holds_up_neither_an_exchange_nor_a_stop(
    tmp_path: Path,
) -> None:
    file = tmp_path / "proxy.yaml"
    written = tmp_path / "log"
    with written.open("ab") as log:
        async with answering() as upstream:
            write_config(file, upstream)
            async with logging_to(log.fileno(), file, python=("-c", HANGS)) as (process, url):
                await until(lambda: "upstream api" in written.read_text())
                async with asyncio.timeout(PATIENCE):
                    for _ in range(3):
                        assert b"[DONE]" in await answered(url)
                    process.terminate()
                    assert await process.wait() == 0


def test_of_the_lines_that_wait_for_a_disk_those_beyond_a_bound_are_lost_and_told() -> None:
    class Disk(handlers.Lossy):
        """It hangs until it is told to go on."""

        def __init__(self) -> None:
            super().__init__()
            self.hangs, self.goes_on = threading.Event(), threading.Event()
            self.written: list[bytes] = []

        def _write(self, data: bytes) -> int:
            self.hangs.set()
            assert self.goes_on.wait(PATIENCE)
            self.written += data.splitlines()
            return len(data)

    disk = Disk()
    handler = handlers.Threaded(disk)
    handler.emit(logging.makeLogRecord({"msg": "first"}))
    assert disk.hangs.wait(PATIENCE)
    for number in range(handlers.MOST_WAITING + 10):
        handler.emit(logging.makeLogRecord({"msg": number}))
    disk.goes_on.set()
    while b"lost" not in b"".join(disk.written):
        handler.emit(logging.makeLogRecord({"msg": "next"}))
    handler.close()
    kept = [b"first", *(b"%d" % number for number in range(handlers.MOST_WAITING))]
    assert disk.written[: len(kept)] == kept
    lost, _, rest = disk.written[len(kept)].partition(b" ")
    assert int(lost) >= 10
    assert rest == b"lines of the log were lost"


def test_a_thread_that_fails_to_write_goes_on() -> None:
    class Failing(handlers.Lossy):
        written = b""

        def _write(self, data: bytes) -> int:
            if b"first" in data:
                raise MemoryError
            self.written += data
            return len(data)

    failing = Failing()
    handler = handlers.Threaded(failing)
    handler.emit(logging.makeLogRecord({"msg": "first"}))
    while not failing._lost:
        pass
    handler.emit(logging.makeLogRecord({"msg": "next"}))
    handler.close()
    assert failing.written == b"1 lines of the log were lost\nnext\n"


async def test_a_terminal_that_nobody_reads_costs_lines_and_no_exchange(tmp_path: Path) -> None:
    """It is writable as long as there is room for a byte."""
    async with serving_at_terminal(tmp_path / "proxy.yaml", "-m", "proxy") as (url, ours):
        for _ in range(100):  # of which it takes the half
            assert b"[DONE]" in await answered(url)
        said = os.read(ours, 1 << 20)
        while b"were lost" not in said:
            assert b"[DONE]" in await answered(url)
            said += os.read(ours, 1 << 20)
    told = re.search(rb"^(.*)lines of the log were lost\r$", said, re.MULTILINE)
    assert told
    assert re.fullmatch(rb"[-0-9]+ [:,0-9]+ WARNING proxy \d+ ", told[1])  # behind no half of one


FORBIDDEN = """
import os, sys
from proxy.cli.cli import main
opened = os.open
def refused(path, *how, **more):
    if str(path).startswith("/proc/self/fd/"):
        raise PermissionError
    return opened(path, *how, **more)
os.open = refused
sys.exit(main())
"""
"""The proxy where a terminal is another user's: root, as which tests may run, can open any."""


async def test_the_terminal_of_another_user_is_not_waited_for_either(tmp_path: Path) -> None:
    async with serving_at_terminal(tmp_path / "proxy.yaml", "-c", FORBIDDEN) as (url, ours):
        for _ in range(100):
            async with asyncio.timeout(PATIENCE):
                assert b"[DONE]" in await answered(url)
        assert b"ended=complete" in os.read(ours, 1 << 20)


WRITES_BY_ITSELF = """
import threading, warnings
from proxy.observe import handlers, logs

class Unraisable:
    def __del__(self):
        raise ValueError("sk-ant-secret")

def fail():
    raise KeyError("sk-ant-secret")

logs.to_stderr()
Unraisable()
thread = threading.Thread(target=fail)
thread.start()
thread.join()
warnings.warn("look here", stacklevel=1)
"""


async def test_what_python_writes_by_itself_is_a_line_of_the_log_and_shows_no_values() -> None:
    lines = [json.loads(line) for line in (await written(WRITES_BY_ITSELF)).splitlines()]
    assert [line["message"] for line in lines[:2]] == [
        "a fault of ours that nobody can catch",
        "a fault of ours ends a thread",
    ]
    assert [line["fault"].splitlines()[-1] for line in lines[:2]] == ["ValueError", "KeyError"]
    assert "UserWarning: look here" in lines[2]["message"]
    assert "sk-ant" not in str(lines)


async def written(code: str) -> str:
    """What a Python process writes to standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        cwd=ROOT,
        env={**os.environ, "PROXY_LOG_FORMAT": "json"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    return said.decode()


async def test_a_log_that_nobody_reads_holds_up_no_supervisor(tmp_path: Path) -> None:
    """The tracker of resources, when it is started again, tells of it by a warning of Python's."""
    file = tmp_path / "proxy.yaml"
    reading, writing = os.pipe()
    write_config(file, "http://127.0.0.1:9")
    async with logging_to(writing, file, "--workers", "2") as (process, _):
        await until(lambda: len(children(process.pid)) == 3)
        _fill(writing)
        before = children(process.pid)
        for child in before:
            os.kill(child, signal.SIGKILL)
        await until(lambda: len(set(children(process.pid)) - set(before)) == 3)
        process.terminate()
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0
    os.close(reading)
    os.close(writing)


def children(process: int) -> list[int]:
    return [
        int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


async def test_a_process_without_standard_error_serves(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    async with answering() as upstream:
        write_config(file, upstream)
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", 'exec "$0" "$@" 2>&-'),
            *(sys.executable, "-m", "proxy", "serve", "--config", str(file)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            url = (await process.stdout.readline()).decode().split()[-1]
            assert (await answered(url)).startswith(b"HTTP/1.1 200 ")
            process.terminate()
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()


async def test_the_first_line_with_blanks_is_written_though_nothing_more_can_be_opened(
    tmp_path: Path,
) -> None:
    async with starved(tmp_path / "proxy.yaml") as (proxy, client):
        for _ in range(2):  # behind the second answer the line of the first is written
            await client.say(b"GET /v1/models HTTP/1.1\r\nhost: proxy\r\n\r\n")
            _, body = await client.request()
        assert b"too many open files" in body
        await proxy.logged('cannot be reached: too many open files"')
    assert "were lost" not in "".join(proxy.said)


def _fill(pipe: int) -> None:
    """Write to a pipe until it takes no more."""
    os.set_blocking(pipe, False)
    try:
        while True:
            os.write(pipe, b".")
    except BlockingIOError:
        os.set_blocking(pipe, True)


def test_a_start_that_nobody_reads_of_is_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output may be a terminal that was told to wait (Ctrl-S), or a pipe that is full."""
    reading, writing = os.pipe()
    _fill(writing)
    with os.fdopen(reading), os.fdopen(writing, "w") as stdout, listen("127.0.0.1", 0) as listener:
        monkeypatch.setattr(sys, "stdout", stdout)
        printing = threading.Thread(target=print_ready, args=(listener,), daemon=True)
        printing.start()
        printing.join(PATIENCE)
        assert not printing.is_alive()
