"""What a version change is: the type that every module of ``versions`` is written in.

A version change is one difference between two neighbouring versions of the API, as a subclass of
VersionChange. Suppose that 2099-01-01 renames ``max_tokens`` to ``budget``:

    class BudgetReplacedMaxTokens(VersionChange):
        '''`max_tokens` is called `budget`.'''

        endpoints = ("/v1/messages",)

        def upgrade_request(self, call: Call) -> Call:
            call.body["budget"] = call.body.pop("max_tokens", None)
            return call

*Upgrade* is always from old to new, *downgrade* from new to old. The request of an old client is
upgraded by one change after another, oldest version first, and the response is downgraded by the
same changes in reverse. A client newer than its upstream needs the opposite: its request is
downgraded, the response upgraded. A method that is not overridden leaves everything as it is.

Rules for a change:

- It knows neither HTTP nor time nor other changes; it sees parsed JSON and one event at a time.
- An instance serves one exchange: what it needs for the response, it may keep from the request.
- What it does not know it passes on: the API promises to add events, fields and values
  (https://docs.anthropic.com/en/api/versioning).

What makes it part of the proxy is its place in VERSIONS, in ``versions/__init__.py``. The test
``test_adding_a_version.py`` adds one like the above, and serves all older clients with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from . import jsontext, sse
from .errors import ProxyError

Body = dict[str, Any]

LARGEST_ANSWER = 16 << 20
"""The most that is remembered of a streamed answer, in bytes of JSON. Every snapshot repeats all of
it, and to print a Message of four times that size takes half a second."""


@dataclass(slots=True)
class Call:
    """A request as version changes see it.

    Its own fields, and the members of ``body``, may be altered in place. What is nested deeper
    belongs to the original request, too: a change replaces it by an altered copy.
    """

    endpoint: str
    """Its path, without the prefix of the route."""
    body: Body
    dropped: dict[str, str] = field(default_factory=dict)
    """The parameters that the client set and the upstream will not get, each with the reason."""
    notes: list[str] = field(default_factory=list)
    """What else was changed, for people to read, each with the reason."""

    def discard(self, parameter: str) -> None:
        """Remove a parameter that has no effect, so that nothing is lost with it."""
        if parameter in self.body:
            del self.body[parameter]
            self.notes.append(f"{parameter}: left out, it has no effect")


class GrowingText:
    """A text that is only ever appended to, kept as the inside of a JSON string.

    Streams of 2023-01-01 repeat the whole text in every event. To escape all of it for each event
    would take the square of its length; here every character is escaped once.
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

    The data is parsed when ``body`` is first read, and a body that was replaced is printed when the
    event is encoded. So an event that no change looks at is never parsed, and one that every change
    alters is printed once. A changed body is therefore assigned, not altered in place.
    """

    __slots__ = (
        "_body",
        "_data",
        "_key",
        "_length",
        "failure",
        "internal",
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
        internal: bool = False,
    ) -> None:
        self.name = name
        self.last = last
        """Whether the answer ends with this event: the client gets nothing after it."""
        self.failure = failure
        """The error that the event reports to the client, for the log."""
        self.internal = internal
        """Whether the event is for other changes alone: the client does not get it. Of what is made
        of one event of the upstream, only the first can be."""
        self.snapshot = snapshot
        """Whether the event repeats all that the one before it said, so that it supersedes it."""
        self._body = body
        self._data = data
        self.text: GrowingText | None = None
        """The text that the event repeats; see repeat_text."""

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
        """What stands after ``data:`` on the wire, without the text that repeat_text() adds.

        JSON that is printed here is one line; what came from the upstream may have several.
        """
        if self._data is None:
            self._data = jsontext.dumps(self._body)
        return self._data

    def repeat_text(self, text: GrowingText, key: str) -> None:
        """Add ``text``, as it is now, to the body under ``key``, as its first member.

        It must not be the only one. The body is printed anew, even if it was altered in place. What
        is appended to the text later is not part of the event.
        """
        self.snapshot = True
        self.text = text
        self._key = key
        self._length = len(text.escaped)

    def encode(self, line_end: bytes = sse.CRLF) -> bytes:
        """The event as it goes on the wire; a text that it repeats is copied once.

        What repeats a text is of 2023-01-01, whose lines end in CRLF.
        """
        if self.text is None:
            return sse.encode(self.name, self.data, line_end)
        before, after = self.around_text()
        return b"".join((before, memoryview(self.text.escaped)[: self._length], after))

    def around_text(self) -> tuple[bytes, bytes]:
        """What stands on the wire before and after the text that the event repeats."""
        opening = b'%b{"%b":"' % (sse.opening(self.name), self._key.encode())
        return opening, b'",%b%b' % (jsontext.dumps(self._body)[1:], sse.END)


@dataclass(frozen=True, slots=True)
class End:
    """The end of the upstream's stream: by itself, or by an ``error``."""

    error: ProxyError | None = None


class VersionChange:
    """One difference between two neighbouring versions.

    The first line of a subclass's docstring says which, in one sentence for users: the command
    ``versions`` prints it.
    """

    endpoints: ClassVar[tuple[str, ...]]
    """The paths of the requests that the change concerns, as the older version has them."""

    drops: ClassVar[tuple[str, ...]] = ()
    """The parameters that it may leave out of a request, by their names in ``Call.dropped``, as far
    as they are known beforehand."""

    depends_on_text: ClassVar[bool] = True
    """Whether what a delta becomes depends on what its text says. True is always safe.

    False promises that of two deltas which differ in nothing but their text, the change makes
    events that differ in nothing but their text. Where all changes promise that, it is shown only
    the first of a run of such deltas (see translation.runs), which makes streams several times as
    fast.
    """

    # For a client older than the upstream.

    def upgrade_request(self, call: Call) -> Call:
        """The request of an old client as a new upstream takes it; raises InvalidRequest."""
        return call

    def downgrade_response(self, body: Body) -> Body:
        """The body of a new upstream's response, not streamed, as an old client reads it."""
        return body

    def downgrade_event(self, event: Event) -> Sequence[Event]:
        """The events that an old client gets for one event of a new upstream: none, one or many."""
        return (event,)

    def downgrade_end(self, end: End) -> Sequence[Event]:  # noqa: ARG002
        """The events that an old client still needs where a stream ends without a last one."""
        return ()

    # For a client newer than the upstream, which is a service that has not migrated.

    def downgrade_request(self, call: Call) -> Call:
        """The request of a new client as an old upstream takes it; raises InvalidRequest."""
        return call

    def upgrade_response(self, body: Body) -> Body:
        """The body of an old upstream's response, not streamed, as a new client reads it.

        Raises UpstreamRefused where the body reports an error.
        """
        return body

    def upgrade_event(self, event: Event) -> Sequence[Event]:
        """The events that a new client gets for one event of an old upstream: none, one or many."""
        return (event,)

    def upgrade_end(self, end: End) -> Sequence[Event]:  # noqa: ARG002
        """The events that a new client still needs where a stream ends without a last one."""
        return ()

    def upgrade_error(self, error: ProxyError) -> ProxyError:
        """The error that an old upstream answered with, as a new client reads it.

        There is no downgrade_error: errors of new upstreams have the form that they always had.
        """
        return error


class Bridge(VersionChange):
    """A change that serves a retired endpoint by a living one, where a route asks for it.

    It stands between versions like any other change, but only old clients take it, and Translation
    is given the instance.
    """

    living: ClassVar[str]
    """The living endpoint."""

    version: ClassVar[str]
    """The version of the API at which it calls that endpoint."""

    answered_by: str | None = None
    """The model that answers, as the upstream names it, once that is known."""

    in_content: bool = False
    """Whether content has arrived since the upstream last gave a reason to stop."""

    @property
    def passes_unchanged(self) -> Callable[[str], bool]:
        """Says of a text whether a delta with it would become what the delta before became, but
        with this text.

        It is looked up after a delta, and asked about the texts that follow. A delta of which it
        says so is not shown to the bridge.
        """
        return _never


def _never(_: str) -> bool:
    return False
