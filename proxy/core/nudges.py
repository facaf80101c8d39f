"""Moves clients off an old version in good time: by announcements, and by brownouts, which refuse
some calls on schedule as a rehearsal of its end.

The caller passes the time, so that a schedule is a pure function of it. All times are UTC: a
brownout neither moves nor happens twice when some country's clocks change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime

from .errors import ProxyError
from .fields import Fields

SECOND = timedelta(seconds=1)


class Brownout(ProxyError):
    """A translated call that was refused on schedule.

    The status is 503, as it goes with Retry-After (RFC 9110 §10.2.3); 410 may be cached, and a
    brownout passes. ``x-should-retry`` keeps today's SDKs from waiting that long and calling again,
    so that nobody would notice; those of 2023 do not retry.
    """

    status = 503
    type = "version_brownout"

    def __init__(self, message: str, seconds: int) -> None:
        fields = ((b"retry-after", str(seconds).encode()), (b"x-should-retry", b"false"))
        super().__init__(message, fields)


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which translated calls are refused: from ``start`` on, for ``length``.

    It recurs ``every`` so often, or never if that is None. ``percent`` of the calls are refused, 1
    to 100.
    """

    start: datetime
    length: timedelta
    every: timedelta | None = None
    percent: int = 100

    def closes(self, now: datetime) -> datetime | None:
        """When the window that is open at ``now`` closes; None if none is open."""
        if now < self.start:
            return None
        opened = self.start if self.every is None else now - (now - self.start) % self.every
        end = opened + self.length
        return end if now < end else None


@dataclass(frozen=True, slots=True)
class Nudge:
    """How the clients of one route are prepared for the end of their version.

    That end itself is up to the operator: after the sunset nothing is refused.
    """

    deprecation: datetime | None = None
    """When the version is or was deprecated."""
    sunset: datetime | None = None
    """When it ends."""
    link: str | None = None
    """Where to read what to do."""
    brownouts: tuple[Window, ...] = ()
    """When calls are refused before the sunset."""

    def fields(self, upstream: Sequence[tuple[bytes, bytes]]) -> Fields:
        """The fields to add to an answer; those that it has from the ``upstream`` are kept.

        Deprecation is defined in RFC 9745 §2, Sunset in RFC 8594 §3, and the links in RFC 9745 §3
        and RFC 8594 §6.
        """
        present = {name for name, _ in upstream}
        fields: Fields = []
        for name, moment, value in (
            (b"deprecation", self.deprecation, _structured_date),
            (b"sunset", self.sunset, _http_date),
        ):
            if moment is None:
                continue
            if name not in present:
                fields.append((name, value(moment)))
            if self.link is not None:
                fields.append((b"link", b'<%b>; rel="%b"' % (self.link.encode(), name)))
        return fields

    def refusal(self, now: datetime, draw: float) -> Brownout | None:
        """The refusal of a call at ``now``, if any; ``draw``, from [0, 1), selects the calls."""
        if self.sunset is None or now >= self.sunset:
            return None
        for window in self.brownouts:
            end = window.closes(now)
            if end is not None and draw * 100 < window.percent:
                end = min(end, self.sunset)
                return Brownout(self._message(self.sunset, end), math.ceil((end - now) / SECOND))
        return None

    def _message(self, sunset: datetime, end: datetime) -> str:
        return (
            f"the old API that this program calls ends on {_shown(sunset)}; its calls are refused "
            f"until {_shown(end)}, to show what depends on it: see {self.link}"
        )


def _structured_date(moment: datetime) -> bytes:
    """A Date of RFC 9651 §3.3.7: whole seconds since 1970."""
    return b"@%d" % math.floor(moment.timestamp())


def _http_date(moment: datetime) -> bytes:
    """An IMF-fixdate of RFC 9110 §5.6.7."""
    return format_datetime(moment, usegmt=True).encode()


def _shown(moment: datetime) -> str:
    """A time of RFC 3339, to the second; midnight is left out."""
    text = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    return text.removesuffix("T00:00:00Z")
