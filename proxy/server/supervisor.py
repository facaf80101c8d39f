"""The processes: a single one that serves, or several workers and their supervisor.

Only the supervisor reads the configuration and handles signals; it commands the workers through
pipes, replaces those that die, and serves no request itself.
"""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory

from ..config import Config
from ..config.summary import served
from ..ledger import journal
from ..observe import logs, sharedmetrics, tracing
from ..observe.metrics import Metrics
from . import server
from .listeners import listen, listen_for_admin
from .process import check_key_log, let_signals_arrive, raise_file_limit
from .reload import Load, Reading, read_again
from .settings import longest_stop
from .worker import Command, Common, WorkerProcess, work

log = logging.getLogger("proxy")

CHECK_EVERY = 0.5
"""Seconds between two checks whether all workers are alive."""

SPAWN = multiprocessing.get_context("spawn")
"""Workers are spawned, not forked, so that they inherit no event loop and no connection."""

SUPERVISOR = "supervisor"
"""The name under which the supervisor keeps its own metrics."""

ENDED_WITHIN = 10.0
"""Seconds that workers have to stop after a second signal."""

KILLED_WITHIN = 1.0
"""Seconds that killed workers have to end."""

STOPS = {signal.SIGINT, signal.SIGTERM}

SIGNALS = (*STOPS, signal.SIGHUP)
"""The signals that the supervisor handles and workers ignore."""


def serve(load: Load, workers: int = 1) -> None:
    """Serve by the configuration that ``load`` reads until a signal says stop.

    Several workers share one listening socket, and one that dies is replaced. Raises OSError and
    ConfigError.
    """
    logs.to_stderr()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it is handled it would kill the process
    let_signals_arrive(SIGNALS)
    config = load()
    if workers > 1:
        _check_working_directory()
        tracing.check(os.environ)  # raises here, once, and not in each worker
    journal.check(config.ledger)  # as does this
    check_key_log(upstream.base_url for upstream in config.upstreams.values())
    raise_file_limit(config.limits.concurrent_exchanges)
    with (
        listen(config.server.host, config.server.port) as listener,
        listen_for_admin(config.admin) as admin,
    ):
        for line in served(config):
            log.info("%s", line)
        if workers == 1:
            server.serve(load, config, listener, admin)
            return
        names = [str(number) for number in range(workers)]
        with _signals() as signals, _shared([*names, SUPERVISOR]) as shared:
            server.print_ready(listener, admin)  # connections can be made from now on
            crew = Crew(config, Common(listener, admin, shared))
            try:
                crew.start(names)
                _supervise(crew, load, Metrics(shared, SUPERVISOR), signals)
            finally:  # even after an error, or the workers would serve on, and no signal stop them
                listener.close()  # or the kernel would go on accepting connections
                _stop(crew, signals)


def _supervise(crew: Crew, load: Load, metrics: Metrics, signals: Signals) -> None:
    """Replace workers that die, and reload at SIGHUP, until a signal says stop."""
    asked = False
    reading: Reading | None = None
    while not (received := signals.wait(CHECK_EVERY)) & STOPS:
        asked |= signal.SIGHUP in received
        if reading is not None and reading.over:
            if now := read_again(reading.config, metrics, crew.config):
                crew.reload(now)
            reading = None
        if asked and reading is None:
            asked, reading = False, Reading(load, signals.wake)
        crew.replace_dead()


def _stop(crew: Crew, signals: Signals) -> None:
    """Let all workers drain, end them at a second signal, and kill those that are too slow."""
    crew.send(Command.STOP)
    deadline = time.monotonic() + crew.longest_stop
    while (alive := crew.alive()) and (left := deadline - time.monotonic()) > 0:
        if signals.wait(left, alive) & STOPS:
            crew.send(Command.END)
            deadline = min(deadline, time.monotonic() + ENDED_WITHIN)
    crew.kill()


@contextmanager
def _shared(names: list[str]) -> Iterator[Path | None]:
    """A folder shared by the processes of these names while the block runs; None if none can be.

    In memory if possible, which works with a read-only root file system, too.
    """
    why: list[str] = []
    for place in ("/dev/shm", None):  # noqa: S108  (mkdtemp picks a name nobody can predict)
        try:
            # That it cannot be removed is no failure of what has been served.
            made = TemporaryDirectory(
                prefix="anthropic-version-proxy-", dir=place, ignore_cleanup_errors=True
            )
        except OSError as error:
            why.append(f"{place or 'elsewhere'}: {error.strerror or error}")
            continue
        with made:
            try:
                sharedmetrics.reserve(Path(made.name), names)
            except OSError as error:
                why.append(f"{made.name}: {error.strerror or error}")
                continue
            yield Path(made.name)
            return
    log.warning(
        "no folder can be shared by the workers (%s): there are no metrics, and each worker has a "
        "ledger of its own",
        "; ".join(why),
    )
    yield None


class Signals:
    """The signals that have come: handled where they are waited for, never amid other work.

    A set records which have come. The sockets only wake who waits: a storm of signals fills them,
    so that some are not written there.
    """

    def __init__(self, reading: socket.socket, writing: socket.socket) -> None:
        self._reading = reading
        self._writing = writing
        self._pending: set[int] = set()

    def add(self, number: int, _: object = None) -> None:
        """Record a signal; the handler of them all."""
        self._pending.add(number)

    def wake(self) -> None:
        """End the waiting under way, or the next one; from any thread."""
        with suppress(OSError):  # full, which wakes as well, or closed
            self._writing.send(b"\0")

    def wait(self, patience: float, others: Sequence[int] = ()) -> set[int]:
        """The signals of at most so many seconds, until one comes or a sentinel is ready."""
        if self._reading in wait([self._reading, *others], patience):
            self._reading.recv(1 << 20)
        now = set(self._pending)
        self._pending.difference_update(now)
        return now


@contextmanager
def _signals() -> Iterator[Signals]:
    reading, writing = socket.socketpair()
    failed = True
    with reading, writing:
        writing.setblocking(False)
        signals = Signals(reading, writing)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, signals.add)
        try:
            yield signals
            failed = False
        finally:
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:  # Python puts the defaults back as it exits: they would kill it
                signal.signal(number, signal.SIG_IGN)
            if failed:  # to tell why may take for ever, where nobody reads it: a stop ends that
                for number in STOPS:
                    signal.signal(number, signal.SIG_DFL)


class Crew:
    """The workers by name, and the configuration that all of them have."""

    def __init__(self, config: Config, common: Common) -> None:
        self.config = config
        self.longest_stop = longest_stop(config)
        """The seconds within which all workers have stopped, whichever configuration they have."""
        self._common = common
        self._workers: dict[str, tuple[WorkerProcess, Channel]] = {}
        self._missing: set[str] = set()
        """The names of those that have died and could not be replaced yet."""

    def start(self, names: list[str]) -> None:
        """Start the workers of these names; raises OSError, and leaves those started running."""
        for name in names:
            self._workers[name] = self._started(name)

    def _started(self, name: str) -> tuple[WorkerProcess, Channel]:
        _check_working_directory()
        receiving, sending = SPAWN.Pipe(duplex=False)
        channel = Channel(sending)
        # Not an argument of work: start would wait until a worker has read it, also a dead one.
        channel.send(_picklable(self.config))
        worker = WorkerProcess(target=partial(work, name, self._common, receiving))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            resource_tracker.ensure_running()  # with SIGHUP blocked, or one to the group ends it
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # again: that call has unblocked some
            worker.start()  # with these blocked, from its first moment to its last
        except OSError:
            channel.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            receiving.close()
        return worker, channel

    def replace_dead(self) -> None:
        """Start a worker in place of each that has died; it continues that one's metrics.

        If none can be started, the others go on, and the next check tries again.
        """
        for name, (worker, channel) in self._workers.items():
            if worker.is_alive():
                continue
            reported = name in self._missing
            if not reported:
                log.error("a worker has ended with code %s: it is replaced", worker.exitcode)
                if self._common.shared is not None:
                    sharedmetrics.reset_gauges(self._common.shared, name)
            try:
                started = self._started(name)
            except OSError as error:  # the limit of processes or descriptors
                if not reported:
                    why = error.strerror or error
                    log.error("no worker can be started yet: %s", why)
                self._missing.add(name)
            else:
                channel.close()
                self._workers[name] = started
                self._missing.discard(name)

    def reload(self, config: Config) -> None:
        """Give all workers another configuration, including those started later."""
        self.config = config
        # A worker may be long in taking it up, and is told to stop while it has the one before.
        self.longest_stop = max(self.longest_stop, longest_stop(config))
        self.send(_picklable(config))

    def send(self, command: Command | Config) -> None:
        """Send a command to all workers, without waiting for any."""
        for _, channel in self._workers.values():
            channel.send(command)

    def alive(self) -> list[int]:
        """The sentinels of the living workers, for multiprocessing.connection.wait."""
        return [worker.sentinel for worker, _ in self._workers.values() if worker.is_alive()]

    def kill(self) -> None:
        """Kill the workers that are still alive, and wait a moment for their end."""
        killed: list[int] = []
        for worker, _ in self._workers.values():
            if worker.is_alive():
                log.error("a worker that did not stop in time is killed")
                worker.kill()
                killed.append(worker.sentinel)
        due = time.monotonic() + KILLED_WITHIN
        for sentinel in killed:
            wait([sentinel], max(0, due - time.monotonic()))


def _check_working_directory() -> None:
    """Check that workers can be started here; raises OSError, which says why not."""
    try:
        os.chdir(Path.cwd())  # as each worker does first
    except OSError as error:
        why = "workers start in the working directory, and it cannot be entered"
        raise OSError(f"{why}: {error.strerror}") from error


class Channel:
    """Sends commands to one worker, in a thread of its own.

    The pipe of a frozen worker fills up, and a supervisor that waited for it would miss signals.
    Only the latest of the commands that wait is kept, for it supersedes the others.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._changed = threading.Condition()
        self._next: Command | Config | None = None
        self._closed = False
        try:
            threading.Thread(target=self._send_all, daemon=True).start()
        except RuntimeError as error:
            pipe.close()
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error

    def send(self, command: Command | Config) -> None:
        """Send it as soon as there is room in the pipe."""
        with self._changed:
            self._next = command
            self._changed.notify()

    def close(self) -> None:
        """Send nothing more, since the worker has ended."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _send_all(self) -> None:
        with self._pipe, suppress(OSError):  # the worker has died
            while (command := self._next_command()) is not None:
                self._pipe.send(command)

    def _next_command(self) -> Command | Config | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._next is not None)
            command, self._next = self._next, None
            return None if self._closed else command


def _picklable(config: Config) -> Config:
    """The configuration without mapping proxies, which cannot be pickled."""
    return replace(config, upstreams=dict(config.upstreams))
