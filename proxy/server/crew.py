"""The workers of a supervisor, and what commands them.

Nothing here waits for a worker: it may be frozen, dead, or unable to end.
"""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path

from ..config import Config
from ..observe import sharedmetrics
from .settings import longest_stop
from .signals import SIGNALS
from .worker import Command, Common, WorkerProcess, work

log = logging.getLogger("proxy")

SPAWN = multiprocessing.get_context("spawn")
"""Workers are spawned, not forked, so that they inherit no event loop and no connection."""

KILLED_WITHIN = 1.0
"""Seconds that killed workers have to end."""


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
        check_working_directory()
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


def check_working_directory() -> None:
    """Check that workers can be started here; raises OSError, which says why not."""
    try:
        os.chdir(Path.cwd())  # as each worker does first
    except OSError as error:
        why = "workers start in the working directory, and it cannot be entered"
        raise OSError(f"{why}: {error.strerror}") from error


def _picklable(config: Config) -> Config:
    """The configuration without mapping proxies, which cannot be pickled."""
    return replace(config, upstreams=dict(config.upstreams))
