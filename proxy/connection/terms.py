"""The terms on which clients are served: how long they are waited for, how much they may send.

Most are constants; those that depend on the application are in Terms.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..observe.record import Observer, log_exchange

PATIENCE = 120.0
"""Seconds in which a client must take some of what waits for it; see Patience."""

HEAD_WITHIN = 20.0
"""Seconds within which a head must arrive, from its first byte on."""

ON_ITS_WAY = 1.0
"""The same while the server stops, and seconds within which another request must begin then. To
close a connection sooner could cross one that is on its way: its client would be told nothing."""

BODY_SILENCE = 30.0
"""Seconds within which more of a body must arrive."""

BODY_WITHIN = 60.0
"""Seconds within which the whole body must arrive, and one more for each SLOWEST_BODY of it."""

SLOWEST_BODY = 1 << 10
"""The slowest that a body may arrive in the long run, in bytes a second: otherwise one byte now and
then would hold an exchange for ever."""

LINGER = 2.0
"""Seconds for which what a refused client still sends is read and thrown away: closing a connection
while bytes are on their way resets it, and the answer is lost (RFC 9112 §9.6)."""

FIELDS = 200
"""How many fields a head may have."""

HEAD_SIZE = 64 << 10
"""The largest head for applications that set no limit of their own, in bytes."""

UNCOUNTED = 1 << 10
"""How far a head that is not complete may pass its limit, in bytes: what the limit does not count
(method and version, blanks, line ends) is known only once all of it is there."""

PIPELINED = 8
"""How many requests may wait behind the one that is being answered before reading is paused. While
it is, nobody notices that the client left until something is written to it."""

WAITING = 16 << 20
"""How much may wait in memory outside of exchanges, of all clients together, in bytes: heads that
have no end yet, requests behind the one that is answered, and what is unread of that one's body
while its client takes nothing. None of it is bounded by the number of exchanges, and one client may
send a megabyte."""

REQUEST, FIELD = 4 << 10, 150
"""What a request that waits takes beside its head, in bytes, and each of its fields."""

PIECE = 4 << 10
"""How much is parsed at a time, in bytes. The event loop hands over 256 KiB at once, which may hold
nine thousand requests."""

SLICE = 0.0005
"""Seconds of parsing after which the loop may serve others, who wait that long for each connection
that is read in the same turn."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms that an application sets.

    ``head_size`` is the largest head, in bytes, ``patience`` the seconds of a client that takes
    nothing. ``notify`` is called with the records of requests that the application never sees.
    """

    head_size: int = HEAD_SIZE
    patience: float = PATIENCE
    notify: Observer = log_exchange
