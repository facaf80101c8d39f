"""Version change of 2023-06-01: how much of the text each event of a completion carries."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.change import Event, GrowingText, VersionChange
from ..core.errors import UpstreamNonsense
from ..formats.endings import check_completion, error_event
from ..formats.growth import growth
from ..formats.leniently import as_text


class CompletionsBecameIncremental(VersionChange):
    """Events of a completion carry only new text. Before, each repeated the whole text so far."""

    endpoints = ("/v1/complete",)
    depends_on_text = False

    def __init__(self) -> None:
        self._text = GrowingText()
        self._before = ""

    def downgrade_event(self, event: Event) -> Sequence[Event]:
        """Append the increment, and send the whole text so far.

        An event without new text is left out, unless it is the last one, which has the stop reason.
        """
        if event.name != "completion":
            return (event,)
        increment = event.body.pop("completion", None)
        if increment and isinstance(increment, str):
            self._text.append(increment)
        elif not event.last:
            return ()
        event.repeat_text(self._text, "completion")
        return (event,)

    def upgrade_event(self, event: Event) -> Sequence[Event]:
        """Send what is new in the text; the last event must be a whole answer."""
        if event.name != "completion":
            return (event,)
        text = as_text(event.body.get("completion"))
        last = bool(as_text(event.body.get("stop_reason")))
        failed = event.body.get("exception") is not None
        try:
            increment = growth(self._before, text)
            if last and not failed:
                check_completion(event.body)
        except UpstreamNonsense as error:
            return (error_event(error),)
        self._before = text
        if not increment and not last and not failed:
            return ()
        return (Event(event.name, event.body | {"completion": increment}, last=last),)
