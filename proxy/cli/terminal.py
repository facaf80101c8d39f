"""The standard streams, whatever is behind them: a terminal, a file, a pipe, or nothing at all.

Colours are for terminals only, and not if NO_COLOR is set (https://no-color.org). That nobody reads
what is printed, or that it cannot be encoded, is no reason to stop.
"""

from __future__ import annotations

import io
import os
import re
import sys
from typing import TextIO

BOLD, RED, GREEN, CYAN = "1", "31", "32", "36"


_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
"""The characters that a terminal obeys, but for the end of a line (ECMA-48 §5)."""


def open_streams() -> None:
    """Make sure that all three streams are open, and that standard output takes any text.

    Those that were closed at the start become /dev/null: otherwise the next sockets would get their
    descriptors, and in workers also what is written to them.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(opened, True)
            setattr(sys, name, os.fdopen(opened, mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error does


def print_line(text: str, stream: TextIO) -> None:
    """Print ``text``; a stream that cannot take it is silenced."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        silence(stream)


def escaped(text: str) -> str:
    """``text`` with its control characters escaped, which a terminal would obey."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def silence(stream: TextIO) -> None:
    """Throw away what ``stream`` could not take, and all that follows."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def coloured(stream: TextIO) -> bool:
    """Whether colours may be written to ``stream``."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def paint(text: str, colour: str, stream: TextIO) -> str:
    """``text`` in a colour, if ``stream`` takes colours."""
    return f"\033[{colour}m{text}\033[0m" if coloured(stream) else text
