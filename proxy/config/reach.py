"""Lists of which the first match wins: no entry may come after one that matches all it would."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .yamltext import Value

T = TypeVar("T")

Takes = Callable[[T], bool]
"""Whether an earlier entry matches everything that this one would."""


def reached(
    read: list[tuple[Value, T]], takes_all_of: Callable[[T], Takes[T]]
) -> list[tuple[Value, T]]:
    """The entries that can be reached, with their places; the others are reported.

    Each is compared with all before it, so ``takes_all_of`` prepares an entry once.
    """
    kept: list[tuple[Value, T]] = []
    takers: list[tuple[Value, Takes[T]]] = []
    for place, later in read:
        if first := next((at for at, takes in takers if takes(later)), None):
            rule = f"{first.where} on line {first.line} matches all that it would"
            place.report("is never reached", rule)
        else:
            kept.append((place, later))
            takers.append((place, takes_all_of(later)))
    return kept
