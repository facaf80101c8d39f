"""On what terms clients are served: how long they are waited for, and how much they may say.

Most are the same for all; what applications decide for themselves is in Terms.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import observe
from .observe import Observer

PATIENCE = 120.0
"""Seconds in which a client must take what waits for it, if nobody says otherwise."""

HEAD_WITHIN = 20.0
"""Seconds that a head may take to arrive, from its first byte on."""

BODY_SILENCE = 30.0
"""Seconds that a client may send nothing of a body that is waited for."""

BODY_WITHIN = 60.0
"""Seconds that a body may take however small it is."""

SLOWEST_BODY = 1 << 10
"""What buys a body another second, in bytes: without that, one byte now and then would hold an
exchange for ever."""

LINGER = 2.0
"""Seconds that a client which was refused may take to read why; a connection that is closed upon
bytes on their way is reset, and the answer lost (RFC 9112 §9.6)."""

FIELDS = 200
"""How many fields a head may have."""

HEAD_SIZE = 64 << 10
"""The most that a head may take before applications that set no limit, in bytes."""

UNCOUNTED = 1 << 10
"""How far a head that is not complete may pass its limit, in bytes: what the limit does not count
(method and version, blanks, line ends) can only be told from the rest once all of it is there."""

PIPELINED = 8
"""How many requests may wait behind the one that is answered before the client is made to wait.
While it waits nobody hears that it left, until something is written to it."""

KEPT = 16 << 20
"""How much of heads may wait in memory, of all clients together, in bytes: of those that have no
end yet, and of requests behind the one that is answered. No exchange is counted for them, and of
each client it may be a megabyte."""

REQUEST, FIELD = 4 << 10, 150
"""What a request that waits takes beside its head, in bytes, and each of its fields."""

PIECE = 4 << 10
"""How much is read at a time, in bytes. The event loop hands over 256 KiB at once, in which there
may be nine thousand requests."""

SLICE = 0.0005
"""Seconds of reading after which the loop may serve others. They wait for as much of each of the
connections that are read in the same turn."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms an application deals with clients.

    ``head_size`` is the most that a head may take, in bytes, ``patience`` the seconds in which a
    client must take what waits for it. ``tell`` hears of requests that no exchange will tell of.
    """

    head_size: int = HEAD_SIZE
    patience: float = PATIENCE
    tell: Observer = observe.write
