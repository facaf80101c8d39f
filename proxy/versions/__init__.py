"""The history of the API: its versions, oldest first, each with the changes that made it.

A new API version is one entry in VERSIONS and one module for each of its changes (see core.change);
nothing else in the proxy knows a date. The changes of a version stand in the order in which they
upgrade a request; a response comes back through them in reverse.

No change knows another: what several of them need is in ``formats``, and what the bridge,
complete_through_messages, is made of is in ``bridge``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from ..core.change import Bridge, VersionChange
from ..core.step import Step
from .citations_left_user_text import CitationsLeftUserText
from .complete_through_messages import CompleteThroughMessages
from .completions_became_incremental import CompletionsBecameIncremental
from .documents_left_assistant_turns import DocumentsLeftAssistantTurns
from .done_event_removed import DoneEventRemoved
from .events_became_named import EventsBecameNamed
from .exception_and_truncated_removed import ExceptionAndTruncatedRemoved
from .messages_became_incremental import MessagesBecameIncremental
from .sampling_parameters_removed import SamplingParametersRemoved
from .unset_parameters_refused import UnsetParametersRefused


@dataclass(frozen=True, slots=True)
class Version:
    """A dated version of the API, and what changed with it."""

    date: str
    about: str
    """What changed, in one sentence for users."""
    changes: tuple[type[VersionChange], ...] = ()
    bridges: tuple[type[Bridge], ...] = ()
    """Changes that serve an endpoint of this version which was retired later."""


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
    Version(
        "2026-10-21",
        "Requests for Messages may no longer contain what today's models do not use.",
        (SamplingParametersRemoved, CitationsLeftUserText, DocumentsLeftAssistantTurns),
    ),
)


@cache
def dates() -> tuple[str, ...]:
    """The dates of all versions, oldest first."""
    return tuple(version.date for version in VERSIONS)


def droppable() -> frozenset[str]:
    """The parameters that any change may leave out, by their names in ``Call.dropped``."""
    changes = (change for version in VERSIONS for change in (*version.changes, *version.bridges))
    return frozenset(name for change in changes for name in change.drops)


@cache
def steps(client: str, upstream: str, bridge: type[Bridge] | None = None) -> tuple[Step, ...]:
    """The steps from a client's version to an upstream's, in the order of a request.

    With a ``bridge`` they lead to the version at which it calls the living endpoint, over the
    bridge, and from there to the upstream's version.
    """
    if bridge is None:
        return tuple(_up(client, upstream) if client <= upstream else _down(client, upstream))
    return (
        *steps(client, bridge.version),
        Step(bridge, client_is_older=True),
        *steps(bridge.version, upstream),
    )


def _up(client: str, upstream: str) -> Iterator[Step]:
    """The steps of a client older than its upstream."""
    for version in VERSIONS:
        if client < version.date <= upstream:
            yield from (Step(change, client_is_older=True) for change in version.changes)


def _down(client: str, upstream: str) -> Iterator[Step]:
    """The steps of a client newer than its upstream."""
    for version in reversed(VERSIONS):
        if upstream < version.date <= client:
            yield from (Step(change, client_is_older=False) for change in reversed(version.changes))
