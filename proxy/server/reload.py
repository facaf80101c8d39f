"""Reads the configuration again, and keeps what cannot change while the process runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from ..config import Admin, Config
from ..core.errors import ConfigError
from ..observe.metrics import Metrics
from .process import check_key_log, raise_file_limit

log = logging.getLogger("proxy")

Load = Callable[[], Config]
"""Reads the configuration, anew each time; raises ConfigError."""


def read_again(load: Load, metrics: Metrics, before: Config) -> Config | None:
    """The configuration as it is now, or None if it is broken or cannot work, which is logged.

    Where to listen stays as it was ``before``, for the sockets are open and clients know them; and
    so does the ledger, whose file is open. ``metrics`` count both outcomes.
    """
    try:
        now = load()
        check_key_log(upstream.base_url for upstream in now.upstreams.values())
    except (ConfigError, OSError) as error:
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
