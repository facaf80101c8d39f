"""Reads the configuration again, and keeps what cannot change while the process runs.

A file on a disk that hangs may never be read to its end. Neither a stop nor, for long, another
reload waits for that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ..config import Admin, Config
from ..core.errors import ConfigError
from ..observe.metrics import Metrics
from ..runtime.daemonthread import started
from .process import check_key_log, raise_file_limit

log = logging.getLogger("proxy")

Load = Callable[[], Config]
"""Reads the configuration, anew each time; raises ConfigError."""

PATIENCE = 30.0
"""Seconds after which a reading is given up."""


class Reading:
    """What ``load`` reads in a thread of its own, which calls ``wake`` as soon as it is read."""

    def __init__(self, load: Load, wake: Callable[[], object]) -> None:
        self.patience = PATIENCE
        """The seconds after which it is given up."""
        self._due = time.monotonic() + PATIENCE
        self._read = started(partial(_working, load))
        self._read.add_done_callback(lambda _: wake())

    @property
    def over(self) -> bool:
        """Whether it is read or given up."""
        return self._read.done() or time.monotonic() >= self._due

    def config(self) -> Config:
        """What was read; raises ConfigError, and OSError where it cannot be read or cannot work."""
        if not self._read.done():
            seconds = f"{self.patience:g} seconds"
            raise TimeoutError(f"the configuration could not be read within {seconds}")
        return self._read.result()


def _working(load: Load) -> Config:
    config = load()
    check_key_log(upstream.base_url for upstream in config.upstreams.values())
    return config


def read_again(load: Load, metrics: Metrics, before: Config) -> Config | None:
    """The configuration as it is now, or None if ``load`` raises, which is logged.

    Where to listen stays as it was ``before``, for the sockets are open and clients know them; and
    so does the ledger, whose file is open. ``metrics`` count both outcomes.
    """
    try:
        now = load()
    except Exception as error:
        if not isinstance(error, ConfigError | OSError):
            log.exception("a fault of ours")
        for line in str(error).splitlines():
            log.error("%s", line)
        log.error("not reloaded: the configuration stays as it was")
        metrics.reloaded(fine=False)
        return None
    metrics.reloaded(fine=True)
    host, port = before.server.host, before.server.port
    if (now.server.host, now.server.port) != (host, port):
        log.warning("server.host and server.port stay %s and %d until a restart", host, port)
    if now.ledger != before.ledger:
        log.warning("ledger.file and ledger.entries stay as they were until a restart")
    raise_file_limit(now.limits.concurrent_exchanges)
    server = replace(now.server, host=host, port=port)
    admin = _admin_again(now.admin, before.admin)
    return replace(now, server=server, admin=admin, ledger=before.ledger)


def _admin_again(now: Admin, before: Admin) -> Admin:
    """The admin section as far as it can change; above all it must not move to the public port."""
    if (now.host, now.port) == (before.host, before.port):
        return now
    where = "where they are" if before.port is None else f"{before.host} and {before.port}"
    log.warning("admin.host and admin.port stay %s until a restart", where)
    return replace(before, enabled=before.enabled and now.enabled, hosts=now.hosts)
