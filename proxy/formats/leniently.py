"""Reads values of an upstream's JSON: one of a wrong type counts as missing.

The API promises to add values, and other servers speak for it: what is odd must not cost a client
its answer.
"""

from __future__ import annotations

from typing import Any

from ..core.change import Body


def as_text(value: Any) -> str:
    """``value`` if it is a string, else ""."""
    return value if isinstance(value, str) else ""


def as_list(value: Any) -> list[Any]:
    """``value`` if it is a list, else []."""
    return value if isinstance(value, list) else []


def as_object(value: Any) -> Body:
    """``value`` if it is a JSON object, else {}."""
    return value if isinstance(value, dict) else {}
