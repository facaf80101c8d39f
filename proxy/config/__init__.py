"""A configuration is read once, checked as a whole, and never changes again.

Whatever is wrong in the file is told at once, each problem with its place and the rule that it
breaks. What the proxy would not do anything with is refused, because an operator who writes a
setting believes in it. Secrets stay wrapped from the moment they are read, and no message shows
one.

    values                        what a configuration comes to
    upstreams                     where upstreams are, what they speak, whose key they get
    routes, paths, notices        which requests go there, and what happens to them
    models                        which model answers for which
    reach                         what the first of several matches leaves for the others
    sections                      the whole, and what is short
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import ConfigError, Problem
from ..yamlnodes import LARGEST_FILE
from ..yamltext import Wrong, compose
from .sections import read
from .values import (
    Admin,
    BridgeName,
    Config,
    CredentialForm,
    Credentials,
    Keepalive,
    Ledger,
    Limits,
    Route,
    Secret,
    Server,
    Snapshots,
    Timeouts,
    UnknownVersions,
    Upstream,
)

__all__ = [
    "Admin",
    "BridgeName",
    "Config",
    "CredentialForm",
    "Credentials",
    "Keepalive",
    "Ledger",
    "Limits",
    "Route",
    "Secret",
    "Server",
    "Snapshots",
    "Timeouts",
    "UnknownVersions",
    "Upstream",
    "load",
    "parse",
    "read",
]


def load(path: str | os.PathLike[str]) -> Config:
    """Reads a file, with the variables of the process's environment."""
    file = os.fspath(path)
    try:
        with open(file, "rb", opener=_at_once) as opened:
            os.set_blocking(opened.fileno(), True)
            text = opened.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = Problem(1, 1, "file", f"cannot be read ({reason})", "it must be a readable file")
        raise ConfigError(file, [problem]) from error
    return parse(text, file, os.environ)


def _at_once(file: str, flags: int) -> int:
    """Open ``file``, but wait for nobody who might write to a FIFO: one who waits hears no stop."""
    return os.open(file, flags | os.O_NONBLOCK)


def parse(text: str | bytes, file: str, environ: Mapping[str, str]) -> Config:
    """Reads a configuration; ``file`` is its name in messages."""
    problems: list[Problem] = []
    try:
        return read(compose(text, environ, problems))
    except Wrong:
        raise ConfigError(file, problems) from None
