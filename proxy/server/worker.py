"""A worker: a process that serves, and obeys a supervisor.

It gets its commands through a pipe, and ignores signals. A terminal or service manager may send one
to the whole process group, and a second stop means another thing than the first: only the
supervisor counts them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple

from ..app import App
from ..config import Config
from ..observe import logs, tracing
from . import server
from .process import raise_file_limit, tune_garbage_collector

log = logging.getLogger("proxy")


class Command(Enum):
    """A command to a worker. The other thing that it can be sent is a new configuration."""

    STOP = "let open exchanges finish, then stop"
    END = "stop at once"


class Common(NamedTuple):
    """What all workers share, from their start to their end."""

    listener: socket.socket
    admin: socket.socket | None
    shared: Path | None


class WorkerProcess(SpawnProcess):
    """The process of a worker.

    Even a killed one may never end: the system waits for a disk that hangs, or for a debugger.
    """

    def join(self, timeout: float | None = None) -> None:
        """As any, but wait only where a ``timeout`` says so: Python joins all as it exits."""
        super().join(0 if timeout is None else timeout)


def work(name: str, common: Common, pipe: Connection) -> None:
    """Serve until commanded to stop: the main function of a worker's process.

    A configuration comes through the pipe first, unless it is to stop already.
    """
    logs.to_stderr()
    try:
        first: Command | Config = pipe.recv()
    except (EOFError, OSError):
        orphaned = True
    else:
        try:
            orphaned = isinstance(first, Config) and _serve(name, first, common, pipe)
        except Exception:
            log.exception("a fault of ours ends a worker")
            sys.exit(1)
    if orphaned and common.shared is not None:  # nobody else will remove it
        shutil.rmtree(common.shared, ignore_errors=True)


def _serve(name: str, config: Config, common: Common, pipe: Connection) -> bool:
    """Serve until commanded to stop, or until the supervisor has died; whether it has."""
    app = App(config, shared=common.shared, worker=name, spans=tracing.configured(os.environ))
    worker = Worker(app, common.admin, pipe)
    worker.run([common.listener])
    return worker.orphaned


class Worker(server.Server):
    """A server that gets its commands through ``pipe``."""

    def __init__(self, app: App, admin: socket.socket | None, pipe: Connection) -> None:
        super().__init__(app, tune_garbage_collector, admin)
        self.orphaned = False
        """Whether the supervisor has died."""
        self._pipe = pipe

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take commands from the pipe in place of signals."""
        listen = partial(self._listen, asyncio.get_running_loop())
        threading.Thread(target=listen, daemon=True).start()
        yield

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read commands, in a thread: reading blocks while a large configuration arrives."""
        with suppress(RuntimeError):  # the loop has ended meanwhile
            while True:
                try:
                    command: Command | Config = self._pipe.recv()
                except (EOFError, OSError):
                    loop.call_soon_threadsafe(self._stop_orphaned)
                    return
                loop.call_soon_threadsafe(self._obey, command)

    def _stop_orphaned(self) -> None:
        """Stop by itself, since the supervisor that would command it has died."""
        self.orphaned = True
        self.should_exit = True

    def _obey(self, command: Command | Config) -> None:
        if command is Command.END:
            self.end()
        elif isinstance(command, Config):
            raise_file_limit(command.limits.concurrent_exchanges, warn=False)
            self.reload(partial(_sent, command))
        else:
            self.should_exit = True


async def _sent(config: Config, _before: Config) -> Config:
    return config
