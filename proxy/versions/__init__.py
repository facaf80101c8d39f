"""The history of the API: its versions, oldest first, each with the changes that made it.

A new API version is one entry here and one module for each of its changes; nothing else in the
proxy knows a date. Changes stand in the order in which a request climbs them; a response comes
back through them in reverse.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..change import Bridge, VersionChange
from .complete_through_messages import CompleteThroughMessages
from .completions_became_incremental import CompletionsBecameIncremental
from .done_event_removed import DoneEventRemoved
from .events_became_named import EventsBecameNamed
from .exception_and_truncated_removed import ExceptionAndTruncatedRemoved
from .messages_became_incremental import MessagesBecameIncremental
from .unset_parameters_refused import UnsetParametersRefused


@dataclass(frozen=True, slots=True)
class Version:
    """A dated version of the API, and what changed with it, for users to read."""

    date: str
    about: str
    changes: tuple[type[VersionChange], ...] = ()
    bridges: tuple[type[Bridge], ...] = ()
    """What stands in for endpoints that were retired while this was the newest version."""


VERSIONS = (
    Version("2023-01-01", "Initial release."),
    Version(
        "2023-06-01",
        "A new format for streams of /v1/complete.",
        (
            UnsetParametersRefused,
            DoneEventRemoved,
            EventsBecameNamed,
            CompletionsBecameIncremental,
            MessagesBecameIncremental,
            ExceptionAndTruncatedRemoved,
        ),
        bridges=(CompleteThroughMessages,),
    ),
    Version("2026-10-21", "Sampling parameters removed."),
)

KNOWN_VERSIONS = tuple(version.date for version in VERSIONS)
OLDEST, NEWEST = KNOWN_VERSIONS[0], KNOWN_VERSIONS[-1]


def climb(client: str, upstream: str, bridge: Bridge | None = None) -> list[VersionChange]:
    """The changes between two versions, oldest first, each made for one exchange.

    ``bridge`` stands in for a retired endpoint: it joins after the version that it was made for.
    """
    rungs: list[VersionChange] = []
    for version in VERSIONS:
        if client < version.date <= upstream:
            rungs += (change() for change in version.changes)
        if bridge is not None and version.date == bridge.version:
            rungs.append(bridge)
    return rungs
