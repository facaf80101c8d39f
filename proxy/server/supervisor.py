"""The processes: a single one that serves, or several workers and their supervisor.

Only the supervisor reads the configuration and handles signals; it commands the workers through
pipes, replaces those that die, and serves no request itself.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..config.summary import served
from ..ledger import journal
from ..observe import logs, sharedmetrics, tracing
from ..observe.metrics import Metrics
from . import server
from .crew import Crew, check_working_directory
from .listeners import listen, listen_for_admin
from .process import check_key_log, let_signals_arrive, raise_file_limit
from .reload import Load, Reading, read_again
from .signals import SIGNALS, STOPS, Signals, handled
from .worker import Command, Common

log = logging.getLogger("proxy")

CHECK_EVERY = 0.5
"""Seconds between two checks whether all workers are alive."""

SUPERVISOR = "supervisor"
"""The name under which the supervisor keeps its own metrics."""

ENDED_WITHIN = 10.0
"""Seconds that workers have to stop after a second signal."""


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
        check_working_directory()
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
        with handled() as signals, _shared([*names, SUPERVISOR]) as shared:
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
