"""The processes to measure: our proxy with its default settings, and its peers.

Each runs in front of the same mock, with one worker, alone on a core. However the benchmark ends,
the processes it started are stopped, and it waits for none without a deadline.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from . import wire

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "bench"

LONGEST_STREAM = 120
CONCURRENT = 8192
"""Our ``concurrent_exchanges``, whose default is less than the streams that a figure opens."""

_INSTALL_WITHIN = 900.0
_START_WITHIN = 120.0
_STOP_WITHIN = 3.0


class Unavailable(Exception):
    """A target cannot be run; says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where clients connect and what they request. ``pid`` is None for the mock itself."""

    name: str
    port: int
    pid: int | None = None
    path: str = "/v1/complete"
    version: str = "2023-06-01"
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cores:
    """``load`` is for mock and clients, ``alone`` for whatever is measured."""

    load: int
    alone: int

    @contextmanager
    def on(self, core: int) -> Iterator[None]:
        """Be on a core; who is started meanwhile stays there."""
        os.sched_setaffinity(0, {core})
        try:
            yield
        finally:
            os.sched_setaffinity(0, {self.load})


@dataclass(frozen=True, slots=True)
class Command:
    """How a process is started, and the environment that it needs beyond ours."""

    words: Sequence[str]
    environment: Mapping[str, str]


class Stage:
    """Holds the mock and the targets, each started when it is first asked for."""

    def __init__(self, cores: Cores, *, quick: bool, litellm: bool) -> None:
        self.cores = cores
        self.versions: dict[str, str] = {}
        self._quick = quick
        self._litellm = litellm
        self._running: dict[str, Target] = {}
        self._targets = ExitStack()
        self._missing: dict[str, str] = {}

    def __enter__(self) -> Self:
        CACHE.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=CACHE)))
            memory = os.memfd_create("stamps")
            stack.callback(os.close, memory)
            os.truncate(memory, wire.STAMPS * 8)
            self.stamps = wire.stamps(memory)
            self.mock = free_port()
            words = ["-m", "tests.bench.mock", "--port", str(self.mock), "--memory", str(memory)]
            started = Command([sys.executable, *words], {})
            with self.cores.on(self.cores.load):
                process = stack.enter_context(running(started, self.folder / "mock", (memory,)))
            wait_for(process, self.mock, self.folder / "mock")
            stack.callback(self.clear)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def clear(self) -> None:
        """Stop all targets: the connections that one figure left must not burden the next."""
        self._running.clear()
        self._targets.close()

    def target(self, name: str) -> Target:
        """A target that stays up until the stage is cleared; raises Unavailable."""
        if name in self._missing:
            raise Unavailable(self._missing[name])
        if name not in self._running:
            try:
                self._running[name] = self._targets.enter_context(self.fresh(name))
            except Unavailable as error:
                self._missing[name] = str(error)
                raise
        return self._running[name]

    @contextmanager
    def fresh(self, name: str) -> Iterator[Target]:
        """A target of its own, without a past; raises Unavailable."""
        if name == "direct":
            yield Target(name, self.mock)
            return
        if name == "pass":  # the same process as native: the client's version makes the difference
            native = self.target("native")
            yield Target(name, native.port, native.pid)
            return
        port = free_port()
        command, target = self._STARTS[name](self, port)
        log = self.folder / f"{name}-{port}"
        with self.cores.on(self.cores.alone), ExitStack() as stack:
            process = stack.enter_context(running(command, log))
            wait_for(process, port, log)
            os.sched_setaffinity(0, {self.cores.load})
            shape = target or Target(name, port)
            yield Target(name, port, process.pid, shape.path, shape.version, shape.headers)

    def _ours(self, port: int, route: str, more: str = "") -> tuple[Command, Target]:
        file = self.folder / f"ours-{port}.yaml"
        file.write_text(
            f"server: {{port: {port}}}\n"
            "upstreams:\n"
            f'  mock: {{base_url: "http://127.0.0.1:{self.mock}", speaks: ["2023-06-01"]}}\n'
            f"{more}"
            "routes:\n"
            f"  - {{path: /v1/complete, methods: [POST], upstream: mock{route}}}\n"
            '  - {path: "/{rest:path}", upstream: mock}\n'
            f"limits: {{concurrent_exchanges: {CONCURRENT}}}\n"
        )
        words = [sys.executable, "-m", "proxy", "serve", "--config", str(file)]
        return Command(words, {}), Target("", port, version="2023-01-01")

    def _native(self, port: int) -> tuple[Command, Target]:
        return self._ours(port, "")

    def _bridge(self, port: int) -> tuple[Command, Target]:
        models = 'models: {"claude-*": claude-haiku-4-5-20251001}\n'
        return self._ours(port, ", bridge: messages", models)

    def _latest(self, port: int) -> tuple[Command, Target]:
        return self._ours(port, ", snapshots: latest")

    def _nginx(self, port: int) -> tuple[Command, None]:
        binary = shutil.which("nginx")
        if binary is None:
            raise Unavailable("there is no nginx on the PATH")
        about = subprocess.run([binary, "-v"], capture_output=True, text=True, check=False)
        self.versions["nginx"] = about.stderr.strip().rpartition("/")[2]
        folder = self.folder / f"nginx-{port}.d"
        folder.mkdir()
        file = folder / "nginx.conf"
        file.write_text(_nginx_file(folder, port, self.mock))
        return Command([binary, "-e", "stderr", "-p", str(folder), "-c", str(file)], {}), None

    def _naive(self, port: int) -> tuple[Command, Target]:
        words = [sys.executable, "-m", *_uvicorn("tests.bench.naive:app", port)]
        return Command(words, self._upstream()), Target("", port, version="2023-01-01")

    def _fpl(self, port: int) -> tuple[Command, None]:
        wanted = ["fastapi-proxy-lib[standard]", "uvicorn", "uvloop", "httptools"]
        python = self._environment("fastapi-proxy-lib", wanted)
        words = ["--app-dir", str(Path(__file__).parent)]
        return Command(
            [python, "-m", *_uvicorn("fpl_app:app", port), *words], self._upstream()
        ), None

    def _lite(self, port: int) -> tuple[Command, Target]:
        if not self._litellm:
            raise Unavailable("ask for it with --litellm")
        python = self._environment("litellm", ["litellm[proxy]"])
        key = "sk-bench"
        file = self.folder / f"litellm-{port}.yaml"
        file.write_text(f"model_list: []\ngeneral_settings: {{master_key: {key}}}\n")
        words = ["--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
        environment = {
            "ANTHROPIC_API_BASE": f"http://127.0.0.1:{self.mock}",
            "ANTHROPIC_API_KEY": "bench",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it would fetch one
            "LITELLM_LOG": "ERROR",
            "LITELLM_MASTER_KEY": key,
            "LITELLM_MODE": "PRODUCTION",
        }
        command = [str(Path(python).with_name("litellm")), *words, "--num_workers", "1"]
        path, header = "/anthropic/v1/complete", f"authorization: Bearer {key}"
        return Command(command, environment), Target("", port, path=path, headers=(header,))

    _STARTS: Mapping[str, Callable[[Stage, int], tuple[Command, Target | None]]] = {
        "native": _native,
        "bridge": _bridge,
        "latest": _latest,
        "nginx": _nginx,
        "naive": _naive,
        "fastapi-proxy-lib": _fpl,
        "LiteLLM": _lite,
    }

    def _upstream(self) -> Mapping[str, str]:
        return {"BENCH_UPSTREAM": f"http://127.0.0.1:{self.mock}"}

    def _environment(self, name: str, packages: Sequence[str]) -> str:
        """The interpreter of a peer's own environment, made on demand; raises Unavailable."""
        folder = CACHE / name
        python = folder / "bin" / "python"
        whole = folder / "whole"
        if not whole.exists():
            if self._quick:
                raise Unavailable("it is not installed yet, which a quick run does not wait for")
            shutil.rmtree(folder, ignore_errors=True)
            _install(folder, python, packages)
            whole.touch()
        ask = f"from importlib.metadata import version; print(version({name!r}))"
        found = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
        self.versions[name] = found.stdout.strip()
        return str(python)


def _install(folder: Path, python: Path, packages: Sequence[str]) -> None:
    for words in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages],
    ):
        try:
            subprocess.run(
                words, check=True, capture_output=True, text=True, timeout=_INSTALL_WITHIN
            )
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Unavailable(f"it cannot be installed: {last}") from error
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"it was not installed within {_INSTALL_WITHIN:.0f} s") from error


def _uvicorn(app: str, port: int) -> list[str]:
    """The server at its fastest, which is how ours runs."""
    loop = ["--loop", "uvloop", "--http", "httptools"]
    return ["uvicorn", app, "--port", str(port), *loop, "--no-access-log", "--log-level", "warning"]


def _nginx_file(folder: Path, port: int, upstream: int) -> str:
    """A pass-through for streams: nothing buffered, connections kept on both sides."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""
{user} daemon off; worker_processes 1; pid {folder}/pid;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 1000000; {places}
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout {LONGEST_STREAM}s;
    }}
  }}
}}
"""


@contextmanager
def running(
    command: Command, log: Path, descriptors: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, in a group of its own: a Ctrl-C is ours to handle."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.words,
            cwd=ROOT,
            env={**os.environ, **command.environment},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=descriptors,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_WITHIN)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin:
            process.stdin.close()


def wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a process takes connections; raises Unavailable."""
    until = time.monotonic() + _START_WITHIN
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)  # a foreign program does not report that it listens
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    raise Unavailable(f"it did not start; its last line: {last[0][:200]}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
