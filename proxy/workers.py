"""The processes: one that serves, or several and one that watches over them.

Who watches is the only one to read the configuration and to heed signals. The workers hear from
it through pipes: a signal may reach them as well, from a terminal or a service manager that sends
to whole groups, and two that mean one stop must not be taken for two.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import Enum
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from . import journal, logs, server, tracing
from .app import App
from .config import Config
from .metrics import Metrics, forget_what_was_open, reserve
from .summary import served

log = logging.getLogger("proxy")

WATCH = 0.5
"""Seconds between two looks at the workers."""

START = multiprocessing.get_context("spawn")
"""How workers are made: from nothing, so that they share no loop and no connection."""


WATCHER = "watcher"
"""The name under which the process that watches keeps figures of its own."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What the process that watches heeds, and no worker."""


class Word(Enum):
    """What a worker is told, beside the configuration to serve by."""

    STOP = "let open exchanges finish, then stop"
    END = "stop at once"


def serve(load: server.Load, workers: int = 1) -> None:
    """Serve what ``load`` reads until a signal says stop; raises OSError and ConfigError.

    Several workers share one listening socket, and one that dies is replaced.
    """
    logs.to_stderr()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it would kill until somebody heeds it
    config = load()
    if workers > 1:
        _check_folder()
        tracing.check(os.environ)  # raises here, once, and not in each worker
    journal.check(config.ledger)  # as does this
    server.open_many_files(config.limits.concurrent_exchanges)
    with (
        server.listen(config.server.host, config.server.port) as listener,
        server.listen_for_admin(config.admin) as admin,
    ):
        for line in served(config):
            log.info("%s", line)
        if workers == 1:
            server.serve(load, config, listener, admin)
            return
        names = [str(number) for number in range(workers)]
        with _signals() as signals, _shared([*names, WATCHER]) as shared:
            server.print_ready(listener, admin)  # connections wait from now on
            crew = Crew(config, _Common(listener, admin, shared))
            try:
                crew.start(names)
                _watch(crew, load, Metrics(shared, WATCHER), signals)
            finally:  # or they would serve on, and this process wait for them and hear no stop
                listener.close()  # or the system would take connections that nobody serves
                _stop(crew, signals)


def _watch(crew: Crew, load: server.Load, metrics: Metrics, signals: Signals) -> None:
    """Keep all workers alive, and their configuration as it is read at SIGHUP, until a stop."""
    while True:
        told = signals(WATCH, [])
        if told & {signal.SIGINT, signal.SIGTERM}:
            return
        if signal.SIGHUP in told and (now := server.read_again(load, metrics, crew.config)):
            crew.reload(now)
        crew.replace_dead()


def _stop(crew: Crew, signals: Signals) -> None:
    """Let all workers drain; told so once more, end them; kill those that do neither in time."""
    crew.tell(Word.STOP)
    deadline = time.monotonic() + server.longest_stop(crew.config)
    while (alive := crew.alive()) and (left := deadline - time.monotonic()) > 0:
        if signals(left, alive) & {signal.SIGINT, signal.SIGTERM}:
            crew.tell(Word.END)
    crew.kill()


@contextmanager
def _shared(names: list[str]) -> Iterator[Path | None]:
    """A folder for the processes of these names while the block runs; None if none can be had.

    In memory where that can be: a read-only root leaves /dev/shm as it is.
    """
    for place in ("/dev/shm", None):  # noqa: S108  (mkdtemp gives it a name that is not known)
        try:
            made = TemporaryDirectory(prefix="anthropic-version-proxy-", dir=place)
        except OSError as error:
            why = error
            continue
        with made:
            try:
                reserve(Path(made.name), names)
            except OSError as error:
                why = error
                continue
            yield Path(made.name)
            return
    log.warning(
        "no folder can be shared by the workers (%s): there are no metrics, and each worker has a "
        "ledger of its own",
        why.strerror or why,
    )
    yield None


Signals = Callable[[float, list[int]], set[int]]
"""Waits for so many seconds, or until a signal comes or one of these is ready; says which came."""


@contextmanager
def _signals() -> Iterator[Signals]:
    """Signals as something to wait for, instead of something that happens in between.

    Which came is kept in a set: the socket only wakes, for a storm of signals fills it, and what
    does not fit is lost.
    """
    heard, told = socket.socketpair()
    pending: set[int] = set()
    with heard, told:
        told.setblocking(False)
        signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda number, _: pending.add(number))

        def came(patience: float, others: list[int]) -> set[int]:
            if heard in wait([heard, *others], patience):
                heard.recv(1 << 20)
            now = set(pending)
            pending.difference_update(now)
            return now

        try:
            yield came
        finally:
            signal.set_wakeup_fd(-1)


class _Common(NamedTuple):
    """What all workers have in common for as long as they live."""

    listener: socket.socket
    admin: socket.socket | None
    shared: Path | None


class Crew:
    """The workers, by their names, and what all of them serve by."""

    def __init__(self, config: Config, common: _Common) -> None:
        self.config = config
        self._common = common
        self._workers: dict[str, tuple[SpawnProcess, Line]] = {}
        self._missing: set[str] = set()
        """Those that have ended, and for which none could be started yet."""

    def start(self, names: list[str]) -> None:
        """Start the workers of these names; raises OSError, and leaves those that it has begun."""
        for name in names:
            self._workers[name] = self._started(name)

    def _started(self, name: str) -> tuple[SpawnProcess, Line]:
        _check_folder()
        theirs, ours = START.Pipe(duplex=False)
        line = Line(ours)
        work = partial(_work, name, _portable(self.config), self._common, theirs)
        worker = START.Process(target=work)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            resource_tracker.ensure_running()  # now, so that no SIGHUP to all ever ends it
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # which unblocks some
            worker.start()  # with these blocked, from its first moment to its last
        except OSError:
            line.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        return worker, line

    def replace_dead(self) -> None:
        """Start a worker for each that has ended, which takes its name and goes on counting.

        Where none can be started, the others go on, and it is tried again.
        """
        for name, (worker, line) in self._workers.items():
            if worker.is_alive():
                continue
            told = name in self._missing
            if not told:
                log.error("a worker has ended with code %s: it is replaced", worker.exitcode)
                if self._common.shared is not None:
                    forget_what_was_open(self._common.shared, name)
            try:
                started = self._started(name)
            except OSError as error:  # no process or no descriptor is left for it
                if not told:
                    why = error.strerror or error
                    log.error("no worker can be started yet: %s", why)  # noqa: TRY400
                self._missing.add(name)
            else:
                line.close()
                self._workers[name] = started
                self._missing.discard(name)

    def reload(self, config: Config) -> None:
        """Have all serve by another configuration, and those that are started later."""
        self.config = config
        self.tell(_portable(config))

    def tell(self, word: Word | Config) -> None:
        """Tell all, and wait for none of them."""
        for _, line in self._workers.values():
            line.say(word)

    def alive(self) -> list[int]:
        """Those that have not ended yet, as something to wait for."""
        return [worker.sentinel for worker, _ in self._workers.values() if worker.is_alive()]

    def kill(self) -> None:
        """End what is left."""
        for worker, _ in self._workers.values():
            if worker.is_alive():
                log.error("a worker that did not stop in time is killed")
                worker.kill()


def _check_folder() -> None:
    """See that workers can be started where we are; raises OSError, which says what is wrong."""
    try:
        os.chdir(Path.cwd())  # as each does first
    except OSError as error:
        why = "workers start in the working directory, and it cannot be entered"
        raise OSError(f"{why}: {error.strerror}") from error


class Line:
    """Tells one worker, in a thread of its own, what it has to hear.

    A pipe takes little from who does not read, as a worker that is frozen, and whoever waited for
    that would hear no signal. Of what is not under way yet the last alone counts: it is newer, or
    it is the end.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._news = threading.Condition()
        self._next: Word | Config | None = None
        self._closed = False
        try:
            threading.Thread(target=self._speak, daemon=True).start()
        except RuntimeError as error:
            pipe.close()
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error

    def say(self, word: Word | Config) -> None:
        """Have it told, as soon as the worker listens."""
        with self._news:
            self._next = word
            self._news.notify()

    def close(self) -> None:
        """Tell nothing more; the worker is gone."""
        with self._news:
            self._closed = True
            self._news.notify()

    def _speak(self) -> None:
        with self._pipe, suppress(OSError):  # one that is dead need not hear it
            while (word := self._awaited()) is not None:
                self._pipe.send(word)

    def _awaited(self) -> Word | Config | None:
        with self._news:
            self._news.wait_for(lambda: self._closed or self._next is not None)
            word, self._next = self._next, None
            return None if self._closed else word


def _portable(config: Config) -> Config:
    """The configuration as it crosses to another process: a view of a mapping cannot."""
    return replace(config, upstreams=dict(config.upstreams))


def _work(name: str, config: Config, common: _Common, pipe: Connection) -> None:
    """Be one worker process."""
    logs.to_stderr()
    app = App(config, shared=common.shared, worker=name, spans=tracing.configured(os.environ))
    worker = Worker.of(app, server.collect_seldom)
    worker.pipe = pipe
    worker.admin = common.admin
    worker.run([common.listener])
    if worker.orphaned and common.shared is not None:  # else it stays: nobody else knows of it
        shutil.rmtree(common.shared, ignore_errors=True)


class Worker(server.Server):
    """A server that is told what to do through ``pipe``."""

    pipe: Connection
    orphaned = False
    """Whether who watched over it is gone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Heed the pipe instead of signals."""
        listen = partial(self._listen, asyncio.get_running_loop())
        threading.Thread(target=listen, daemon=True).start()
        yield

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand on what is told, in a thread: a large configuration comes in more than one piece."""
        with suppress(RuntimeError):  # of a loop that has ended meanwhile
            while True:
                try:
                    word: Word | Config = self.pipe.recv()
                except (EOFError, OSError):
                    loop.call_soon_threadsafe(self._be_orphaned)
                    return
                loop.call_soon_threadsafe(self._heed, word)

    def _be_orphaned(self) -> None:
        """Stop: who watched is gone, and nobody else ever would tell."""
        self.orphaned = True
        self.should_exit = True

    def _heed(self, word: Word | Config) -> None:
        if word is Word.END:
            self.end()
        elif isinstance(word, Config):
            config = word
            server.open_many_files(config.limits.concurrent_exchanges, tells=False)
            self.renew(lambda _: config)
        else:
            self.should_exit = True
