"""What moves clients off a retired version in good time: announcements, and rehearsals of its end.

Whoever asks brings the time along, so that a schedule is a pure function of it. All times are UTC:
a rehearsal neither moves nor doubles when clocks change somewhere.
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

    503 is what Retry-After belongs to (RFC 9110 §10.2.3); 410 may be remembered, and a rehearsal
    passes. The SDKs of today sleep as long as Retry-After says and then call again, unnoticed by
    anyone, unless they are told not to; those of 2023 give up by themselves.
    """

    status = 503
    type = "version_brownout"

    def __init__(self, message: str, seconds: int) -> None:
        fields = ((b"retry-after", str(seconds).encode()), (b"x-should-retry", b"false"))
        super().__init__(message, fields)


@dataclass(frozen=True, slots=True)
class Window:
    """When some of the translated calls are refused: from ``start`` on for ``length``.

    ``every`` repeats that; None leaves it at once. ``percent`` of the calls are refused, 1 to 100.
    """

    start: datetime
    length: timedelta
    every: timedelta | None = None
    percent: int = 100

    def closes(self, now: datetime) -> datetime | None:
        """When the window that is open at ``now`` closes; None if none is open."""
        if now < self.start:
            return None
        begun = self.start if self.every is None else now - (now - self.start) % self.every
        end = begun + self.length
        return end if now < end else None


@dataclass(frozen=True, slots=True)
class Nudge:
    """What the clients of one route are told of the end of their version.

    ``deprecation`` is when it is or was deprecated, ``sunset`` when it ends, ``link`` where to
    read what to do. Windows are open before the sunset only; nothing here is what ends a version.
    """

    deprecation: datetime | None = None
    sunset: datetime | None = None
    link: str | None = None
    brownouts: tuple[Window, ...] = ()

    def fields(self, upstream: Sequence[tuple[bytes, bytes]]) -> Fields:
        """The fields to add to an answer that has those of the ``upstream``, whose own stand.

        Deprecation is RFC 9745 §2, Sunset RFC 8594 §3, and the links are RFC 9745 §3 and RFC 8594
        §6.
        """
        told = {name for name, _ in upstream}
        fields: Fields = []
        for name, moment, value in (
            (b"deprecation", self.deprecation, _structured_date),
            (b"sunset", self.sunset, _http_date),
        ):
            if moment is None:
                continue
            if name not in told:
                fields.append((name, value(moment)))
            if self.link is not None:
                fields.append((b"link", b'<%b>; rel="%b"' % (self.link.encode(), name)))
        return fields

    def refusal(self, now: datetime, draw: float) -> Brownout | None:
        """Why a call at ``now`` is refused, or None; ``draw`` from [0, 1) decides which are."""
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
    """RFC 3339, to the second; a day alone where it is midnight."""
    text = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    return text.removesuffix("T00:00:00Z")
