"""Colours: only on a terminal, and never against NO_COLOR (https://no-color.org)."""

from __future__ import annotations

import os
from typing import TextIO

BOLD, RED, GREEN, CYAN = "1", "31", "32", "36"


def coloured(stream: TextIO) -> bool:
    """Whether what is written there may have colours."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def paint(text: str, colour: str, stream: TextIO) -> str:
    """``text`` in a colour, where ``stream`` takes colours."""
    return f"\033[{colour}m{text}\033[0m" if coloured(stream) else text
