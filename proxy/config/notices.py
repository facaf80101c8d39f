"""Reads the section ``nudge`` of a route: announcements of a version's end; see core.nudges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ..core.nudges import Nudge, Window
from .readers import matching, moment, span, whole
from .yamltext import Fields, Value


def read_nudge(value: Value) -> Nudge:
    """The announcements of a route; raises Wrong."""
    with Fields(value) as field:
        windows: list[tuple[Value, Window]] = field.take("brownouts", _windows, [])
        nudge = Nudge(
            deprecation=field.take("deprecation", moment, None),
            sunset=field.take("sunset", moment, None),
            link=field.take("link", _link, None),
            brownouts=tuple(window for _, window in windows),
        )
        if not field.has("deprecation") and not field.has("sunset"):
            value.report("has no date", "write deprecation, sunset or both")
        if nudge.deprecation and nudge.sunset and nudge.sunset < nudge.deprecation:
            rule = "the sunset is not before the deprecation (RFC 9745 §4)"
            field.refuse("sunset", "is before deprecation", rule)
        for name in ("sunset", "link"):
            if field.has("brownouts") and not field.has(name):
                rule = "a brown-out needs sunset and link, to tell clients when to be done and how"
                field.refuse("brownouts", f"stands without {name}", rule)
        for place, window in windows:
            if nudge.sunset and window.start >= nudge.sunset:
                place.report("is never open", "a brown-out begins before the sunset")
        return nudge


_link = matching(
    r"https?://[!#-;=?-~]+", "must be a URL of http or https, in ASCII, without blanks, quotes, < >"
)


def _windows(value: Value) -> list[tuple[Value, Window]]:
    return value.each(lambda item: (item, _window(item)), "must be a list of brown-outs")


def _window(value: Value) -> Window:
    with Fields(value) as field:
        window = Window(
            start=field.require("from", moment, datetime.now(UTC)),
            length=field.require("for", span, timedelta()),
            every=field.take("every", span, None),
            percent=field.take("percent", whole(1, 100), 100),
        )
        if field.fine("for", "every") and window.every and window.every <= window.length:
            field.refuse("every", "is not longer than for", "one ends before the next begins")
        return window
