"""What the process as a whole is given: its signals, its files, how it collects garbage."""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger("proxy")

OTHER_FILES = 50
"""About how many files are open that do not belong to an exchange."""

GC_THRESHOLDS = (20_000, 50, 1_000)
"""How seldom garbage is collected; see gc.set_threshold."""


def let_signals_arrive(numbers: Iterable[signal.Signals]) -> None:
    """Let these signals arrive, and the deaths of children be seen, whatever the parent left.

    A program inherits which signals are blocked and which are ignored. While SIGCHLD is ignored,
    the system itself buries children, and a worker that has died looks alive for ever.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def check_key_log(base_urls: Iterable[str]) -> None:
    """Check that TLS can log its keys where SSLKEYLOGFILE asks; raises OSError, which says why not.

    Python opens that file for each upstream at https:, and fails without a word.
    """
    name = os.environ.get("SSLKEYLOGFILE")
    if not name or not any(url.startswith("https:") for url in base_urls):
        return
    try:
        Path(name).open("ab").close()
    except OSError as error:
        raise OSError(f"SSLKEYLOGFILE {name} cannot be written: {error.strerror}") from error


def tune_garbage_collector() -> None:
    """Collect garbage seldom, and never what was made before the first request.

    Exchanges leave no reference cycles behind. With thousands of streams open a full collection
    takes a tenth of a second, in which all of them stand still.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def raise_file_limit(exchanges: int, *, warn: bool = True) -> None:
    """Raise the soft limit of open files to what so many ``exchanges`` at once take.

    Each takes two, and as many again are for clients that are idle between two requests. The
    usual limit of 1,024 only protects programs that call select, which fails above it.
    ``warn`` logs a hard limit that is too low.
    """
    wanted = OTHER_FILES + 4 * exchanges
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if usual == resource.RLIM_INFINITY or usual >= wanted:
        return
    allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    except (OSError, ValueError):  # as where fs.nr_open was set below what is allowed here
        allowed = usual
    if warn and allowed < wanted:
        log.warning(
            "limits.concurrent_exchanges is %d, for which %d files should be allowed, not %d"
            " (ulimit -n)",
            exchanges,
            wanted,
            allowed,
        )
