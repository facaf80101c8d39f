"""What one version change is: the type that carries the design.

A change says what differs between two neighbouring versions, in both directions. It knows neither
HTTP nor time nor its neighbours. An instance lives for one exchange, so that on the way back it
may remember the way out.

The request of an old client climbs through the changes oldest first, and its response comes back
through them newest first; for a client newer than its upstream it is the other way round. What a
change does not override passes through, and so does what it does not know: the API promises to
add events, fields and values (https://docs.anthropic.com/en/api/versioning).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from . import jsontext, sse
from .errors import ProxyError

Body = dict[str, Any]

LARGEST = 16 << 20
"""The most that is remembered of a streamed answer, in bytes of JSON. Each delta repeats it,
however short, and to print a Message of four times as much takes half a second."""


@dataclass(slots=True)
class Call:
    """A request as version changes see it."""

    endpoint: str
    body: Body
    dropped: dict[str, str] = field(default_factory=dict)
    """The parameters that the client set and the upstream will not get, and why."""
    notes: list[str] = field(default_factory=list)
    """What else was made different, and why."""

    def discard(self, parameter: str) -> None:
        """Take out a parameter by which the client asked for nothing."""
        if parameter in self.body:
            del self.body[parameter]
            self.notes.append(f"{parameter}: left out, it asks for nothing")


class GrowingText:
    """A text that is only ever appended to, kept as the inside of a JSON string.

    Streams of 2023-01-01 repeat the whole text in every event. Escaping it anew each time would
    cost as much as the text is long; here every character is escaped once.
    """

    __slots__ = ("appended", "escaped")

    def __init__(self) -> None:
        self.escaped = bytearray()
        self.appended = b""
        """What was appended last, escaped."""

    def append(self, text: str) -> None:
        self.appended = jsontext.dumps(text)[1:-1]
        self.escaped += self.appended


class Event:
    """One server-sent event as version changes see it: a name, and data that is mostly JSON.

    What came from the wire is parsed when its ``body`` is first asked for; what has a new body is
    printed when it is encoded. So an event that passes through is not parsed, and one that every
    change alters is printed once.
    """

    __slots__ = (
        "_body",
        "_data",
        "_key",
        "_length",
        "failure",
        "last",
        "name",
        "snapshot",
        "text",
    )

    def __init__(
        self,
        name: str | None,
        body: Body | None = None,
        data: bytes | None = None,
        *,
        last: bool = False,
        snapshot: bool = False,
        failure: ProxyError | None = None,
    ) -> None:
        self.name = name
        self.last = last
        """Whether the answer ends with this event; nothing after it is for the client."""
        self.failure = failure
        """The error that ends the answer, for the log; the client reads it in the event."""
        self.snapshot = snapshot
        """Whether the event repeats all that the snapshot before it said."""
        self._body = body
        self._data = data
        self.text: GrowingText | None = None
        """The text that the event repeats; see show."""

    @property
    def body(self) -> Body:
        """The JSON object that the event carries; raises jsontext.NotJSON."""
        if self._body is None:
            body = jsontext.loads_at_once(self.data)
            if not isinstance(body, dict):
                raise jsontext.NotJSON("the data of an event is not a JSON object")
            self._body = body
        return self._body

    @body.setter
    def body(self, body: Body) -> None:
        self._body = body
        self._data = None

    @property
    def data(self) -> bytes:
        """What stands behind ``data:`` on the wire; not of a snapshot of a text.

        It is one line, but for an event that passes as it came.
        """
        if self._data is None:
            self._data = jsontext.dumps(self._body)
        return self._data

    def show(self, text: GrowingText, key: str) -> None:
        """Let the event repeat ``text``, as it is now, under ``key`` before its other members.

        There is one other member at least. What the text grows later does not show.
        """
        self.snapshot = True
        self.text = text
        self._key = key
        self._length = len(text.escaped)

    def encode(self) -> bytes:
        """The event for the wire; the text of a snapshot is copied once."""
        if self.text is None:
            return sse.encode(self.name, self.data)
        before, after = self.around_text()
        return b"".join((before, memoryview(self.text.escaped)[: self._length], after))

    def around_text(self) -> tuple[bytes, bytes]:
        """What stands on the wire before and after the text that the event repeats."""
        opening = b'%b{"%b":"' % (sse.opening(self.name), self._key.encode())
        return opening, b'",%b%b' % (jsontext.dumps(self._body)[1:], sse.END)


@dataclass(frozen=True, slots=True)
class End:
    """How the upstream's stream ended: properly, or with an ``error``."""

    error: ProxyError | None = None


class VersionChange:
    """One difference between two neighbouring versions; the docstring tells it to users."""

    endpoints: ClassVar[tuple[str, ...]]
    """The paths of the requests that the change concerns, as the older version has them."""

    drops: ClassVar[tuple[str, ...]] = ()
    """The parameters that it may leave out of a request, by the names that ``Call.dropped`` has.
    Names that only a request knows cannot stand here."""

    reads_text: ClassVar[bool] = True
    """Whether what it makes of a delta depends on its text, but for the text itself.

    Where no change says so, a delta that differs from the one before in its text alone need not be
    shown to them: it becomes what that one became, with its own text.
    """

    # A client older than the upstream.

    def upgrade_request(self, call: Call) -> Call:
        """Old to new: the request that the client would send today; raises InvalidRequest."""
        return call

    def downgrade_response(self, body: Body) -> Body:
        """New to old: the body of a response that was not streamed."""
        return body

    def downgrade_event(self, event: Event) -> Sequence[Event]:
        """New to old: what one event of a stream becomes; none, one or many."""
        return (event,)

    def finish(self, end: End) -> Sequence[Event]:  # noqa: ARG002
        """The upstream's stream has ended: what an older client is still owed."""
        return ()

    # A client newer than the upstream: a service that has not migrated.

    def downgrade_request(self, call: Call) -> Call:
        """New to old: the request that the service understands; raises InvalidRequest."""
        return call

    def upgrade_response(self, body: Body) -> Body:
        """Old to new: the body of a response that was not streamed; raises UpstreamRefused."""
        return body

    def upgrade_event(self, event: Event) -> Sequence[Event]:
        """Old to new: what one event of a stream becomes; none, one or many."""
        return (event,)

    def upgrade_error(self, error: ProxyError) -> ProxyError:
        """Old to new: a refusal of the service, as the client should read it."""
        return error

    def finish_upgraded(self, end: End) -> Sequence[Event]:  # noqa: ARG002
        """The service's stream has ended: what a newer client is still owed."""
        return ()


class Bridge(VersionChange):
    """The version change that serves a retired endpoint through a living one."""

    living: ClassVar[str]
    """The endpoint that it calls."""

    version: ClassVar[str]
    """The version at which it calls it."""

    answered_by: str | None = None
    """The model that the upstream said is answering."""

    in_content: bool = False
    """Whether content has arrived since the upstream last gave a reason to stop."""

    @property
    def passes_unchanged(self) -> Callable[[str], bool]:
        """Whether a delta with a certain text would become what the delta before it became, with
        this text.

        The caller looks it up behind a delta, and asks it about the texts that follow. A delta of
        which it says so is not shown to the bridge any more.
        """
        return _never


class Step:
    """A version change in the direction in which an exchange takes it: out and back.

    ``older`` says that the client is older than the upstream, so that its request is upgraded and
    the answer downgraded; else it is the other way round.
    """

    __slots__ = ("change", "older")

    def __init__(self, change: VersionChange, *, older: bool) -> None:
        self.change = change
        self.older = older

    @property
    def request(self) -> Callable[[Call], Call]:
        return self.change.upgrade_request if self.older else self.change.downgrade_request

    @property
    def response(self) -> Callable[[Body], Body]:
        return self.change.downgrade_response if self.older else self.change.upgrade_response

    @property
    def event(self) -> Callable[[Event], Sequence[Event]]:
        return self.change.downgrade_event if self.older else self.change.upgrade_event

    @property
    def finish(self) -> Callable[[End], Sequence[Event]]:
        return self.change.finish if self.older else self.change.finish_upgraded

    def error(self, error: ProxyError) -> ProxyError:
        """Every version words its errors alike, but for a service that has not migrated."""
        return error if self.older else self.change.upgrade_error(error)


class Direction:
    """A kind of version change and the way in which it will be taken; see Step."""

    __slots__ = ("answers", "asks", "kind", "older")

    def __init__(self, kind: type[VersionChange], *, older: bool) -> None:
        self.kind = kind
        self.older = older
        self.asks = _overrides(kind, *(_UPGRADE if older else _DOWNGRADE))
        """Whether requests differ: others need not be read."""
        self.answers = _overrides(kind, *(_DOWNGRADES if older else _UPGRADES))
        """Whether answers differ: others need not be read."""


def _never(_: str) -> bool:
    return False


def _overrides(kind: type[VersionChange], *methods: str) -> bool:
    return any(getattr(kind, name) is not getattr(VersionChange, name) for name in methods)


_UPGRADE = ("upgrade_request",)
_DOWNGRADE = ("downgrade_request",)
_DOWNGRADES = ("downgrade_response", "downgrade_event", "finish")
_UPGRADES = ("upgrade_response", "upgrade_event", "upgrade_error", "finish_upgraded")
