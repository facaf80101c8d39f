"""Version change of 2023-06-01: what marks the end of a stream."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.change import Event, VersionChange


class DoneEventRemoved(VersionChange):
    """A stream ends with its last event. Before, a `data: [DONE]` followed that."""

    endpoints = ("/v1/complete", "/v1/messages")
    depends_on_text = False

    def downgrade_event(self, event: Event) -> Sequence[Event]:
        """Send `[DONE]` right after the last event: some clients take what stands before it."""
        if event.last:
            return (event, Event(None, data=b"[DONE]"))
        return (event,)

    def upgrade_event(self, event: Event) -> Sequence[Event]:
        """Leave `[DONE]` out."""
        return () if event.data == b"[DONE]" else (event,)
