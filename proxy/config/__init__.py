"""A configuration is read once, checked as a whole, and never changes again.

All problems of a file are reported at once, each with its place and the rule that it breaks. A
setting without effect is an error, because whoever writes it relies on it. Secrets are wrapped as
soon as they are read, and no message shows one.

    yamlnodes       YAML as nodes, never too many
    yamltext        YAML values that know their place in the file
    readers         scalars, and lists of them
    reach           entries that are never reached, as an earlier one matches all
    values          the result: frozen dataclasses
    models          which model answers for which
    notices         how clients are told of a version's end
    upstreams       where upstreams are, what they speak, whose key they get
    paths, routes   which requests go there, and what happens to them
    sections        the whole file, and its small sections
    schema          all of it for editors
    summary         and for people
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..core.errors import ConfigError, Problem
from .sections import read
from .values import (
    Admin,
    Config,
    Credentials,
    Ledger,
    Limits,
    Route,
    Secret,
    Server,
    Snapshots,
    Timeouts,
    Upstream,
)
from .yamlnodes import LARGEST_FILE
from .yamltext import Wrong, compose

__all__ = [
    "Admin",
    "Config",
    "Credentials",
    "Ledger",
    "Limits",
    "Route",
    "Secret",
    "Server",
    "Snapshots",
    "Timeouts",
    "Upstream",
    "load",
    "parse",
]


def load(path: str | os.PathLike[str]) -> Config:
    """Read a file, with the variables of the environment; raises ConfigError."""
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
    """Open ``file``, without waiting for a writer of a FIFO: that would delay a stop."""
    return os.open(file, flags | os.O_NONBLOCK)


def parse(text: str | bytes, file: str, environ: Mapping[str, str]) -> Config:
    """Read a text; ``file`` is its name in messages. Raises ConfigError."""
    problems: list[Problem] = []
    try:
        return read(compose(text, environ, problems))
    except Wrong:
        raise ConfigError(file, problems) from None
