"""What an exchange leaves in its record: how it ended, and what was translated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..core.errors import STATUS_OF_TYPE, Draining, ProxyError, UpstreamError, UpstreamRefused
from ..core.redaction import beginning
from ..observe.record import LONGEST_VALUE, UNKNOWN, Ended, Record
from ..translation.translation import Translation

NAMED = 30
"""How many of the parameters that were left out are recorded by name: looking for a key in a long
name takes as long as the exchange. The log and the ledger name fewer."""

OTHER = "other"
"""Stands for the name of each further one."""


def record_failure(record: Record, error: ProxyError) -> None:
    """Record what the exchange failed with, in our words: the upstream's may quote the request."""
    record.ended = _outcome(error)
    record.error_class = type(error).__name__
    if isinstance(error, UpstreamRefused):
        record.error = error.type if error.type in STATUS_OF_TYPE else "unknown type"
    else:
        record.error = f"{error.type}: {error.message}"


def record_translation(record: Record, translation: Translation) -> None:
    """Record what was translated, once all that an exchange can learn of it is known."""
    record.changes = translation.changes
    record.dropped = tuple(_dropped_names(translation.dropped))
    record.notes = translation.notes
    record.model = beginning(translation.model_asked or UNKNOWN, LONGEST_VALUE)
    record.answered_by = beginning(translation.model or UNKNOWN, LONGEST_VALUE)
    record.streams = translation.streams


def _outcome(error: ProxyError) -> Ended:
    match error:
        case UpstreamRefused():
            return "upstream refused"
        case UpstreamError():
            return "upstream failed"
        case Draining():
            return "drained"
        case _:
            return "refused"


def _dropped_names(dropped: Iterable[str]) -> Iterator[str]:
    """The names of what was left out, in its order; OTHER for those beyond NAMED."""
    for number, name in enumerate(dropped):
        yield beginning(name, LONGEST_VALUE) if number < NAMED else OTHER
