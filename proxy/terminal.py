"""The standard streams, whatever stands behind them: a terminal, a file, a pipe, or nothing at all.

Colours are for a terminal only, and never against NO_COLOR (https://no-color.org). Who does not
read what is printed, or cannot show all of it, is no reason to stop.
"""

from __future__ import annotations

import io
import os
import re
import sys
from typing import TextIO

BOLD, RED, GREEN, CYAN = "1", "31", "32", "36"


_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
"""What a terminal does something at, but for the end of a line (ECMA-48 §5)."""


def open_streams() -> None:
    """See that each stream is one, and takes any text.

    In place of those that were closed at the start is what keeps nothing: otherwise the next
    sockets would get their numbers, and in workers what is written to them.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(opened, True)
            setattr(sys, name, os.fdopen(opened, mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error does


def tell(text: str, stream: TextIO) -> None:
    """Print what is told to whoever reads it, if anybody does."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        unheard(stream)


def harmless(text: str) -> str:
    """``text`` of a stranger's to be printed: a terminal would do as its control characters say."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def unheard(stream: TextIO) -> None:
    """Let go of what ``stream`` could not take, and of all that follows."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def coloured(stream: TextIO) -> bool:
    """Whether what is written there may have colours."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def paint(text: str, colour: str, stream: TextIO) -> str:
    """``text`` in a colour, where ``stream`` takes colours."""
    return f"\033[{colour}m{text}\033[0m" if coloured(stream) else text
