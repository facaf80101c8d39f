"""The processes: one that serves, or several and one that watches over them.

Who watches is the only one to read the configuration and to heed signals. The workers hear from
it through pipes: a signal may reach them as well, from a terminal or a service manager that sends
to whole groups, and two that mean one stop must not be taken for two.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import Enum
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from . import server
from .app import App
from .config import Config

log = logging.getLogger("proxy")

WATCH = 0.5
"""Seconds between two looks at the workers."""

START = multiprocessing.get_context("spawn")
"""How workers are made: from nothing, so that they share no loop and no connection."""


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
    server.log_to_stderr()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it would kill until somebody heeds it
    config = load()
    with server.listen(config.server.host, config.server.port) as listener:
        if workers == 1:
            server.serve(load, config, listener)
            return
        with _signals() as signals:
            server.print_ready(server.address(listener))  # connections wait from now on
            crew = Crew(config, listener, workers)
            _watch(crew, load, signals)
            _stop(crew, signals)


def _watch(crew: Crew, load: server.Load, signals: Signals) -> None:
    """Keep all workers alive, and their configuration as it is read at SIGHUP, until a stop."""
    while True:
        told = signals(WATCH, [])
        if told & {signal.SIGINT, signal.SIGTERM}:
            return
        if signal.SIGHUP in told and (now := server.read_again(load, crew.config)):
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


Signals = Callable[[float, list[int]], set[int]]
"""Waits for so many seconds, or until a signal comes or one of these is ready; says which came."""


@contextmanager
def _signals() -> Iterator[Signals]:
    """Signals as something to wait for, instead of something that happens in between."""
    heard, told = socket.socketpair()
    with heard, told:
        told.setblocking(False)
        signal.set_wakeup_fd(told.fileno())
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)

        def came(patience: float, others: list[int]) -> set[int]:
            ready = wait([heard, *others], patience)
            return set(heard.recv(4096)) if heard in ready else set()

        try:
            yield came
        finally:
            signal.set_wakeup_fd(-1)


class Crew:
    """The workers, and what all of them serve by."""

    def __init__(self, config: Config, listener: socket.socket, count: int) -> None:
        self.config = config
        self._listener = listener
        resource_tracker.ensure_running()  # or the first start starts it, and unblocks signals
        self._workers = [self._started() for _ in range(count)]

    def _started(self) -> tuple[SpawnProcess, Connection]:
        theirs, ours = START.Pipe(duplex=False)
        work = partial(_work, _portable(self.config), self._listener, theirs)
        worker = START.Process(target=work)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            worker.start()  # with these blocked, from its first moment to its last
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return worker, ours

    def replace_dead(self) -> None:
        """Start a worker for each that has ended."""
        for index, (worker, pipe) in enumerate(self._workers):
            if not worker.is_alive():
                log.error("a worker has ended with code %s: it is replaced", worker.exitcode)
                pipe.close()
                self._workers[index] = self._started()

    def reload(self, config: Config) -> None:
        """Have all serve by another configuration, and those that are started later."""
        self.config = config
        self.tell(_portable(config))

    def tell(self, word: Word | Config) -> None:
        """Tell all; those that are dead need not hear it."""
        for _, pipe in self._workers:
            with suppress(OSError):
                pipe.send(word)

    def alive(self) -> list[int]:
        """Those that have not ended yet, as something to wait for."""
        return [worker.sentinel for worker, _ in self._workers if worker.is_alive()]

    def kill(self) -> None:
        """End what is left."""
        for worker, _ in self._workers:
            worker.kill()


def _portable(config: Config) -> Config:
    """The configuration as it crosses to another process: a view of a mapping cannot."""
    return replace(config, upstreams=dict(config.upstreams))


def _work(config: Config, listener: socket.socket, pipe: Connection) -> None:
    """Be one worker process."""
    server.log_to_stderr()
    worker = Worker.of(App(config), server.collect_seldom)
    worker.pipe = pipe
    worker.run([listener])


class Worker(server.Server):
    """A server that is told what to do through ``pipe``."""

    pipe: Connection

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Heed the pipe instead of signals."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self.pipe.fileno(), self._heed)
        try:
            yield
        finally:
            loop.remove_reader(self.pipe.fileno())

    def _heed(self) -> None:
        word: Word | Config
        try:
            word = self.pipe.recv()
        except (EOFError, OSError):  # who watched is gone, and nobody would ever stop us
            asyncio.get_running_loop().remove_reader(self.pipe.fileno())
            word = Word.STOP
        if word is Word.END:
            self.end()
        elif isinstance(word, Config):
            config = word
            self.renew(lambda _: config)
        else:
            self.should_exit = True
