"""The server's side of one client connection: uvicorn's, and what it has no word for.

That the client left is told at once, and one that takes nothing is left after a while: it may
hold an exchange, and with it a call of the upstream, for only so long. What is no request, is too
large or does not arrive in time is answered here, in the API's words, and then the client is left:
the application hears of no head that is not whole. https://www.rfc-editor.org/rfc/rfc9112
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, cast
from urllib.parse import unquote

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import (
    HttpToolsProtocol,
    RequestResponseCycle,
)

from . import guard
from .client import CONNECTION, EMPTY_QUERY, ClientLeft, ClientStalled, Gone
from .errors import HeaderTooLarge, InvalidRequest, NoRoom, RequestError, RequestTimeout
from .fields import has_body, values, without
from .flow import Flow, Signal
from .observe import Record
from .patience import Patience
from .response import Response, refusal
from .terms import (
    BODY_SILENCE,
    BODY_WITHIN,
    FIELD,
    FIELDS,
    HEAD_WITHIN,
    KEPT,
    LINGER,
    PIECE,
    PIPELINED,
    REQUEST,
    SLICE,
    SLOWEST_BODY,
    UNCOUNTED,
    Terms,
)

WORTH_A_COPY = 16 << 10
"""Up to how many bytes copying a part costs less than handing the transport three."""

_NEVER = math.inf

_NOTHING = memoryview(b"")


class Settings(uvicorn.Config):
    """uvicorn's settings, and where the terms are asked for: they may change."""

    def __init__(self, app: ASGIApp, terms: Callable[[], Terms] = Terms, **more: Any) -> None:
        super().__init__(app, http=Protocol, **more)
        self.terms = terms
        self.kept = 0
        """How much of heads waits in memory, of all connections together, in bytes."""


class Protocol(HttpToolsProtocol):
    """One connection to a client, whose server has Settings; see client.Connection."""

    config: Settings
    cycle: Response
    flow: Flow

    # More than thirty attributes in one dictionary would take another 1.5 KB of each connection.
    __slots__ = (
        "_ahead",
        "_body_due",
        "_due",
        "_framing",
        "_gone",
        "_head",
        "_hung_up",
        "_kept",
        "_mixed",
        "_part",
        "_patience",
        "_refusal",
        "_segment",
        "_tell",
        "_terms",
        "_timer",
        "_turn",
        "_unread",
        "_waiting",
        "_wakes",
    )

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._terms = self.config.terms()
        """Those that held when the last request began."""
        self._waiting: list[Response] = []
        """Requests that came while another was answered, the oldest first."""
        self._ahead: Response = None  # type: ignore[assignment]  # until any waits
        """The one that is answered before them; ``cycle`` is the last of them."""
        del self.pipeline  # which would hold them, and takes 760 bytes for none

        self._tell: Callable[[Gone], None] | None = None
        self._patience: Patience | None = None
        """With a client that does not keep up."""
        self._gone: Gone | None = None

        self._part: Literal["head", "body"] | None = None
        """What is being read: nothing is, before a request and after it."""
        self._unread = _NOTHING
        """What has arrived and is yet to be read."""
        self._turn: asyncio.Handle | None = None
        """When reading goes on that has let others go first."""
        self._segment = b""
        """What is read just now."""
        self._head: bytes | bytearray = b""
        """What was read before it of the head that is under way, and what stood before that."""
        self._mixed = False
        """Whether something else stood in it before or beside the head that is being read."""
        self._framing = 0
        """How much has arrived of the head, or since the last part of the body, in bytes."""
        self._kept = 0
        """How much of heads waits in memory, in bytes."""
        self._refusal: RequestError | None = None
        """Why nothing more is read."""

        self._hung_up = False
        """Whether nothing more is said, and what still comes is let go."""

        self._due = _NEVER
        """When what is waited for must have come, by the event loop's clock."""
        self._body_due = _NEVER
        """When the whole body must have come, unless more of it comes before."""
        self._wakes = _NEVER
        self._timer: asyncio.TimerHandle | None = None

    # For the application.

    def when_left(self, tell: Callable[[Gone], None]) -> None:
        if self._gone is not None:
            tell(self._gone)
        else:
            self._tell = tell

    def write(self, data: bytes) -> bool:
        """Write a part of a chunked body, which most are, without the standard's detour.

        While another request waits in the pipeline, ``cycle`` is that one's, and has not begun.
        """
        cycle = self.cycle
        if cycle.disconnected:
            return True  # there is nobody to wait for
        if not cycle.chunked_encoding or self.flow.write_paused:
            return False
        size = len(data)
        if cycle.head:
            self.transport.writelines((cycle.head, b"%x\r\n" % size, data, b"\r\n"))
            cycle.head = b""
        elif size < WORTH_A_COPY:
            self.transport.write(b"%x\r\n%b\r\n" % (size, data))
        else:
            self.transport.writelines((b"%x\r\n" % size, data, b"\r\n"))
        return True

    # For the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.connections.add(self)
        self.transport = transport
        self.flow = Flow(transport)
        self.server = self.client = None  # nobody asks, and each open stream would keep them
        self.scheme = "http"
        self._due = self.loop.time() + self.timeout_keep_alive
        self._watch()

    def data_received(self, data: bytes) -> None:
        if len(data) <= PIECE:
            self._read(data)
        else:
            self._unread = memoryview(data)
            self._read_on()

    def pause_writing(self) -> None:
        """The client does not keep up: it gets its time, and whoever writes to it waits."""
        super().pause_writing()
        self._patience = Patience(self.transport, self._terms.patience, self._give_up)

    def resume_writing(self) -> None:
        """The client has taken what was waiting."""
        self._stop_waiting()
        super().resume_writing()

    def eof_received(self) -> None:
        """The client says no more, upon which its transport closes."""
        self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._due = _NEVER
        if self._timer is not None:
            self._timer.cancel()
        if self._turn is not None:
            self._turn.cancel()
        if self._waiting:  # for answers that nobody waits for any more
            self.cycle = self._ahead
            self._waiting.clear()
        del self._ahead
        self._head = b""
        self._weigh()
        super().connection_lost(exc)
        self._leave(self._gone or ClientLeft())
        known = [self.scope] if self.cycle is None else [self.scope, self.cycle.scope]
        for scope in filter(None, known):  # a circle, which would wait for the garbage collector
            cast(dict[str, Any], scope).pop("extensions", None)

    # For the server.

    def shutdown(self) -> None:
        """Close when what is asked was answered, and who still sends its request has had time."""
        if self._part == "body" and self.cycle.response_complete and not self._hung_up:
            self._hang_up()
        elif not self._hung_up:
            super().shutdown()

    # For the parser.

    def on_message_begin(self) -> None:
        if self._part == "body":
            return  # its head is read once more
        super().on_message_begin()
        cast(dict[str, Any], self.scope)["extensions"] = {CONNECTION: self}
        self._terms = self.config.terms()
        self._part = "head"
        self._framing = 0
        self._due = self.loop.time() + HEAD_WITHIN

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field, in lower case; trailer fields are let go (RFC 9110 §6.5.1).

        They would join those of the head, which the application has already judged.
        """
        if self._part == "head":
            self.headers.append((name.lower(), value))
            if len(self.headers) > FIELDS:  # the shortest take twenty times their length in memory
                raise HeaderTooLarge(f"the header has more than {FIELDS} fields")

    def on_headers_complete(self) -> None:
        """Hand the request to the application, or raise the RequestError to refuse it with."""
        if self._part == "body":
            return
        limit = self._terms.head_size
        if (
            self._framing + len(self._segment) + len(self.headers) > limit
            and guard.size(self.url, self.headers) > limit
        ):
            raise self._too_large()
        version = self.parser.get_http_version()
        method = self.parser.get_method()
        guard.check_head(method, self.url, version, self.headers)
        if not self._stands(b"%b %b HTTP/1." % (method, self.url)):
            raise InvalidRequest("the first line must be a method, a target and HTTP/1.1")
        self._head = b""
        self._begin(method, version)
        self._part = "body"
        self._framing = 0
        self._body_due = self.loop.time() + BODY_WITHIN
        self._expect_body()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._framing = 0
        self._mixed = True
        self._body_due += len(body) / SLOWEST_BODY
        if self.flow.read_paused:  # from here on the time is ours
            self._body_due = self.loop.time() + BODY_WITHIN
        self._expect_body()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and has_body(dict(self.headers)):
            return  # its body is yet to come
        super().on_message_complete()
        self._part = None
        self._mixed = True
        idle = self.cycle.response_complete
        self._due = self.loop.time() + self.timeout_keep_alive if idle else _NEVER
        if not self.parser.should_keep_alive():  # a trailer said so; what follows is not read
            self.cycle.keep_alive = False
            if idle:
                self._close()

    # For the cycle.

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for it: as uvicorn does, with our own timer."""
        self.server_state.total_requests += 1
        self._tell = None
        if self.transport.is_closing():
            return
        if self.cycle.unheard:
            self._hang_up()
        elif self._waiting:
            self._ahead = self._waiting.pop(0)
            self._start_asgi_task(self._ahead, self.app)
            self._weigh()
            if self.flow.full and self._turn is None:
                # Not here: an error that is answered just now would stand as the cause of what the
                # parser raises.
                self._turn = self.loop.call_soon(self._read_on)
        elif self._refusal is not None:
            self._say(self._refusal)
        elif self._part is None:
            self._due = self.loop.time() + self.timeout_keep_alive
            self._watch()
        self.flow.resume_reading()

    # Reading.

    def _read_on(self) -> None:
        """Read what has arrived, as long as few requests wait and others are not held up for it."""
        self._turn = None
        began = time.monotonic()
        while self._unread and len(self._waiting) <= PIPELINED and not self.transport.is_closing():
            piece, self._unread = bytes(self._unread[:PIECE]), self._unread[PIECE:]
            try:
                self._read(piece)
            except BaseException:  # what comes behind the hole is no request
                self.transport.abort()
                raise
            if time.monotonic() - began > SLICE:
                self._turn = self.loop.call_soon(self._read_on)
                break
        if not self._unread:
            self._unread = _NOTHING  # or its view would keep all that was read
        self.flow.full = bool(self._unread) or len(self._waiting) > PIPELINED

    def _read(self, data: bytes) -> None:
        """Read the next of what has arrived, and refuse what can be told to be wrong."""
        if self._refusal is not None or self._hung_up:
            return
        self._segment = data
        self._mixed = False
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            if isinstance(error, httptools.HttpParserInvalidURLError):
                self.url = self.url or b"?"  # there is one, of which the parser tells no part
            self._refuse(_refusal(error))
            return
        if self._part is not None and not self._mixed:
            self._framing += len(data)
            uncounted = UNCOUNTED if self._part == "head" else 0
            if self._framing > self._terms.head_size + uncounted:
                self._refuse(self._too_large())
        if self._part == "head":
            self._head = self._head or bytearray()
            self._head += data
        if self._head or self._kept or self._waiting:
            self._weigh()
        self._segment = b""
        self._watch()

    def _weigh(self) -> None:
        """Count what waits here, and refuse to read on where that of all clients is too much."""
        kept = len(self._head) + sum(response.weight for response in self._waiting)
        if len(self._waiting) > PIPELINED:
            kept += len(self._unread)
        more = kept - self._kept
        self._kept = kept
        self.config.kept += more
        if more > 0 and self.config.kept > KEPT and self._refusal is None:
            self._refuse(NoRoom())

    def _begin(self, method: bytes, version: str) -> None:
        """Give the request to the application, when its turn comes."""
        path, mark, query = self.url.partition(b"?")
        scope = cast(dict[str, Any], self.scope)
        if mark and not query:
            scope["extensions"][EMPTY_QUERY] = True
        scope["method"] = method.decode("ascii")
        scope["http_version"] = version
        scope["raw_path"], scope["query_string"] = path, query
        scope["path"] = unquote(path.decode("ascii"))
        before = self.cycle
        self.cycle = Response(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=Signal(),  # type: ignore[arg-type]  # it does as the library's does
            expect_100_continue=self._expects_to_hear(version),
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
            return
        if not self._waiting:
            self._ahead = before
        self._waiting.append(self.cycle)
        self.cycle.weight = REQUEST + FIELD * len(self.headers) + guard.size(self.url, self.headers)
        if len(self._waiting) > PIPELINED:
            self.flow.full = True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self._over)
        self.tasks.add(task)

    def _over(self, task: asyncio.Task[None]) -> None:
        """The application is done with a request; the cycle may have closed the connection."""
        self.tasks.discard(task)
        if self._gone is None and self.transport.is_closing():
            self._close()

    def _expects_to_hear(self, version: str) -> bool:
        """Whether the client waits for a word before it sends the body (RFC 9110 §10.1.1)."""
        if version == "1.0" or b"expect" not in dict(self.headers):
            return False
        expected = values(self.headers, b"expect")  # from which the parser takes no blanks
        return any(value.strip().lower() == b"100-continue" for value in expected)

    def _parse(self, data: bytes) -> None:
        """Feed the parser; it leaves HTTP where a client offers to, and we do not (§7.8)."""
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                rest = memoryview(rest)[offer.args[0] :]
            else:
                return
            if self._part == "body":
                self._parse_head_again()

    def _parse_head_again(self) -> None:
        """Have the body read that the parser would not: without the offer, another one does."""
        scope = cast(dict[str, Any], self.scope)
        line = f"{scope['method']} / HTTP/{scope['http_version']}\r\n".encode("ascii")
        fields = (b"%b: %b\r\n" % pair for pair in without(self.headers, b"upgrade"))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's is
        self.parser.feed_data(b"%b%b\r\n" % (line, b"".join(fields)))

    def _stands(self, line: bytes) -> bool:
        """Whether ``line`` has arrived. The parser tells neither protocols nor blanks apart."""
        return line in self._segment or line in self._head + self._segment

    def _too_large(self) -> HeaderTooLarge:
        return HeaderTooLarge(f"the header is larger than {self._terms.head_size} bytes")

    # Deadlines: one timer, which is set again only when it has gone off or must go off sooner.

    def _watch(self) -> None:
        if self._wakes <= self._due < _NEVER:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wakes = self._due
        if self._due < _NEVER:  # an open stream waits for nothing, and keeps no timer
            self._timer = self.loop.call_at(self._due, self._look)

    def _expect_body(self) -> None:
        self._due = min(self.loop.time() + BODY_SILENCE, self._body_due)

    def _look(self) -> None:
        self._timer = None
        self._wakes = _NEVER
        if self._due <= self.loop.time():
            self._expire()
        self._watch()

    def _expire(self) -> None:
        """What was waited for has not come."""
        self._due = _NEVER
        if self._hung_up and self.flow.write_paused:
            self._due = self.loop.time() + LINGER  # it has not even taken the answer
        elif self._hung_up:
            self.transport.abort()
        elif self._part == "head" and self.flow.read_paused:
            self._due = self.loop.time() + HEAD_WITHIN  # it is for us to go on
        elif self._part == "head":
            self._refuse(RequestTimeout("the head of the request did not arrive in time"))
        elif self._part is None:
            self._close()
        elif self._awaits_us():
            self._body_due = self.loop.time() + BODY_WITHIN  # it is for us to go on
            self._expect_body()
        else:
            self._refuse(RequestTimeout("the body of the request did not arrive in time"))

    def _awaits_us(self) -> bool:
        """Whether it is not the client that keeps the body waiting; once answered, it is."""
        cycle = self.cycle
        unread = self.flow.read_paused or cycle.body or cycle.waiting_for_100_continue
        return bool(unread) and not cycle.response_complete

    # Refusals.

    def _refuse(self, error: RequestError) -> None:
        """Read no more. ``error`` is told when its turn comes: answers keep the order of requests.

        The request that it concerns may be with the application, wait for its turn, or not have
        got so far.
        """
        self._refusal = error
        error.__traceback__ = error.__context__ = None  # which lead back here: a circle
        self._due = _NEVER
        cycle = self.cycle
        waits = cycle in self._waiting
        if self._part == "body" and not waits:
            self._withdraw(cycle, error)
            return
        self._terms.tell(_record(error))
        if self._part == "body":
            self._waiting.remove(cycle)
            self.cycle = self._waiting[-1] if self._waiting else self._ahead
        elif cycle is None or cycle.response_complete:
            self._say(error)

    def _withdraw(self, cycle: Response, error: RequestError) -> None:
        """Take back a request from the application, which was given the head alone."""
        unanswered = not cycle.response_started
        if not cycle.response_complete:
            self._leave(error)
            cycle.disconnected = True
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()
        if unanswered:
            self._say(error)
        elif cycle.ends_with_connection:
            self._close()  # which resets it: what is cut must not look whole
        else:
            self._hang_up()

    def _say(self, error: RequestError) -> None:
        """Answer with an error, and leave the client."""
        # Before there is a target, the parser's method is that of the request before.
        bodiless = bool(self.url) and self.parser.get_method() == b"HEAD"
        self.transport.write(refusal(error, bodiless=bodiless))
        self._hang_up()

    def _hang_up(self) -> None:
        """Write no more, and read for a while what is no longer read by anyone."""
        self._hung_up = True
        self.flow.resume_reading()
        self.transport.set_write_buffer_limits(0)  # it has its time until it has taken the last
        with suppress(OSError):  # asyncio's own transport says so where the client has left
            self.transport.write_eof()
        self._due = self.loop.time() + LINGER
        self._watch()

    # Leaving.

    def _leave(self, how: Gone) -> None:
        """Tell the exchange that nobody waits for its answer."""
        self._gone = how
        if self._tell is not None:
            self._tell(how)
            self._tell = None

    def _close(self) -> None:
        """Close the connection when the client has taken what waits, for which it has its time."""
        self.transport.set_write_buffer_limits(0)
        self.transport.close()

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.end()
            self._patience = None

    def _give_up(self) -> None:
        self._gone = ClientStalled()
        self.transport.abort()


def _refusal(error: httptools.HttpParserError) -> RequestError:
    """What a client is told of what the parser refused; raises what is a fault of ours.

    The parser's own words are not for clients, nor are the bytes that it choked on.
    """
    cause = error.__context__
    if isinstance(cause, RequestError):
        return cause
    if cause is not None and not isinstance(cause, httptools.HttpParserError):
        raise cause
    return InvalidRequest("what was sent is not a request of HTTP/1.1")


def _record(error: RequestError) -> Record:
    """The record of a request that no exchange will tell of, without a byte of it."""
    record = Record("-", "-", status=error.status, ended="refused")
    record.error, record.fault = f"{error.type}: {error.message}", type(error).__name__
    return record
