"""The server's side of one client connection: uvicorn's, with deadlines, limits and early notice.

The application learns at once that a client has disconnected. A client that takes nothing for long
is disconnected, for it holds an exchange, and with it a call of the upstream. What is malformed,
too large or too slow is answered here, in the API's words, and then the connection is closed: the
application sees complete heads only. https://www.rfc-editor.org/rfc/rfc9112
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast
from urllib.parse import unquote

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ..core.errors import HeaderTooLarge, InvalidRequest, NoRoom, ProxyError, RequestTimeout
from ..core.fields import expects_continue, has_body, without
from ..exchange import guard
from ..exchange.extensions import CONNECTION, EMPTY_QUERY, ClientLeft, ClientStalled, Gone
from ..runtime.alarm import NEVER, Alarm
from ..runtime.sockets import readable
from . import refusal
from .budget import Budget, Share
from .flow import Flow, Signal
from .framing import Framing
from .intake import Intake
from .patience import Patience
from .pipeline import Pipeline
from .response import Response
from .terms import (
    BODY_SILENCE,
    BODY_WITHIN,
    FIELD,
    FIELDS,
    HEAD_WITHIN,
    LINGER,
    ON_ITS_WAY,
    REQUEST,
    SLOWEST_BODY,
    UNCOUNTED,
    WAITING,
    Terms,
)


class Settings(uvicorn.Config):
    """uvicorn's settings, and ``terms``, which is asked before each request: they may change."""

    def __init__(self, app: ASGIApp, terms: Callable[[], Terms] = Terms, **more: Any) -> None:
        super().__init__(app, http=Protocol, **more)
        self.terms = terms
        self.draining = False
        """Whether each connection is to end once the requests that were read are answered."""
        self.answers_until = NEVER
        """The time of the event loop from which on requests are only refused."""
        self.waiting = Budget(WAITING)
        """For what waits in memory outside of exchanges, of all connections together, in bytes."""


class Protocol(HttpToolsProtocol):
    """One connection to a client, whose server has Settings; see exchange.extensions.Connection.

    Its end has up to three steps: with a ``_refusal`` nothing more is read, and it is answered when
    its turn comes; while ``_lingering`` nothing more is written either, and what arrives is thrown
    away, so that the client can read the last answer (RFC 9112 §9.6); ``_gone`` is why the client
    is no longer there.
    """

    config: Settings
    cycle: Response
    """The last of the pipeline, or what was the last before all were complete."""
    flow: Flow
    _intake: Intake

    # More than thirty attributes in one dictionary would take another 1.5 KB of each connection.
    __slots__ = (
        "_alarm",
        "_body_due",
        "_framing",
        "_gone",
        "_intake",
        "_lingering",
        "_on_gone",
        "_patience",
        "_pipeline",
        "_refusal",
        "_terms",
        "_waits",
    )

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        del self.pipeline  # uvicorn's own, which takes 760 bytes even while it is empty
        self._terms = self.config.terms()
        """Those in force when the last request began."""
        self._framing = Framing()
        self._pipeline = Pipeline()
        self._waits = Share(self.config.waiting)
        """What waits in memory here."""

        self._on_gone: Callable[[Gone], None] | None = None
        self._patience: Patience | None = None
        """While the client does not keep up."""
        self._gone: Gone | None = None
        self._refusal: ProxyError | None = None
        self._lingering = False

        self._alarm = Alarm(self.loop, self._expire)
        """For what is waited for; a stream under way has no deadline here."""
        self._body_due = NEVER
        """The deadline of the whole body; each part of it puts it off."""

    # For the application.

    def when_left(self, call: Callable[[Gone], None]) -> None:
        if self._gone is not None:
            call(self._gone)
        else:
            self._on_gone = call

    def write(self, parts: Sequence[bytes]) -> bool:
        # While other requests wait in the pipeline, this is the last one's, and has not begun.
        return self.cycle.write(parts)

    # For the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.connections.add(self)
        self.transport = transport
        self.flow = Flow(transport)
        self._intake = Intake(transport, self.flow, self._pipeline, self._read)
        self.server = self.client = None  # nobody asks, and each open stream would keep them
        self.scheme = "http"
        first_within = ON_ITS_WAY if self.config.draining else self.timeout_keep_alive
        self._alarm.due = self.loop.time() + first_within
        self._alarm.arm()

    def data_received(self, data: bytes) -> None:
        self._intake.take(data)

    def pause_writing(self) -> None:
        """The client does not keep up: writers wait, and so does our patience run."""
        super().pause_writing()
        self._patience = Patience(self.transport, self._terms.patience, self._give_up)

    def resume_writing(self) -> None:
        """The client has taken what was waiting."""
        self._end_patience()
        super().resume_writing()
        if self._waits.taken:  # nothing more may be read while the answer goes on
            self._account()

    def eof_received(self) -> None:
        """The client will send no more: close the connection, too."""
        self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_patience()
        self._alarm.stop()
        self._intake.stop()
        if self._pipeline.first is not None:  # the others were never begun, and need not be
            self.cycle = self._pipeline.first
            self._pipeline.clear()
        self._framing.head = b""
        self._waits.take(0)
        super().connection_lost(exc)
        self._report_gone(self._gone or ClientLeft())
        known = [self.scope] if self.cycle is None else [self.scope, self.cycle.scope]
        for scope in filter(None, known):  # a cycle, which only the garbage collector would free
            cast(dict[str, Any], scope).pop("extensions", None)

    # For the server.

    def shutdown(self) -> None:
        """Close once all requests are answered; linger for a client that still sends one.

        One may be on its way, for nobody has told the client that no more are answered: a balancer
        that gets none may not ask anybody else. A response whose head is sent has not said that it
        is the last: requests that come until its end are answered, too. A refusal that waits for
        its turn is the last by itself.
        """
        if self._lingering or self._refusal is not None:
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._framing.part == "body":
            self._linger()
        elif idle and (self.cycle is None or self._framing.part == "head" or len(self._intake)):
            self._expect_soon()
        elif idle:
            self._expect_another()
        elif not self.cycle.response_started or self._framing.part == "body":
            super().shutdown()
        elif self._framing.part == "head":
            self._expect_soon()

    # For the parser.

    def on_message_begin(self) -> None:
        if self._framing.part == "body":
            return  # see _parse_head_again
        super().on_message_begin()
        cast(dict[str, Any], self.scope)["extensions"] = {CONNECTION: self}
        self._terms = self.config.terms()
        self._framing.begin_head()
        within = ON_ITS_WAY if self.config.draining else HEAD_WITHIN
        self._alarm.due = self.loop.time() + within

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field, its name in lower case; drop those of a trailer (RFC 9110 §6.5.1).

        They would join those of the head, which the application has already checked.
        """
        if self._framing.part == "head":
            self.headers.append((name.lower(), value))
            if len(self.headers) > FIELDS:  # the shortest take twenty times their length in memory
                raise HeaderTooLarge(f"the header has more than {FIELDS} fields")

    def on_headers_complete(self) -> None:
        """Hand the request to the application, or raise the ProxyError to refuse it with."""
        if self._framing.part == "body":
            return  # see _parse_head_again
        version = self.parser.get_http_version()
        method = self.parser.get_method()
        self._check_head(method, version)
        self._framing.end_head()
        self._begin(method, version)
        self._body_due = self.loop.time() + BODY_WITHIN
        self._expect_body()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        # A 100 now would tell the client nothing (§10.1.1), and would arrive along with the head of
        # the answer, upon which HAProxy 2.6 ends a stream as if it were complete.
        self.cycle.waiting_for_100_continue = False
        self._framing.pass_body()
        self._body_due += len(body) / SLOWEST_BODY
        if self.flow.read_paused:  # the application does not keep up: its time does not count
            self._body_due = self.loop.time() + BODY_WITHIN
        self._expect_body()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and has_body(dict(self.headers)):
            return  # the parser has skipped its body; see _parse
        super().on_message_complete()
        self.cycle.waiting_for_100_continue = False
        self._framing.end_request()
        if not self._pipeline.waiting:  # it may not ask for more of a body that is whole
            self.flow.resume_reading()
        idle = self.cycle.response_complete
        self._alarm.due = self.loop.time() + self.timeout_keep_alive if idle else NEVER
        if not self.parser.should_keep_alive():  # a trailer said so; what follows is not read
            self.cycle.keep_alive = False
            if idle:
                self._close()

    # For the cycle.

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for one: as uvicorn does, with our own timer."""
        self.server_state.total_requests += 1
        self._on_gone = None
        answered = self._pipeline.complete_first()
        answered.body = bytearray()  # nobody read it, and more of it may be long in coming
        if self.transport.is_closing():  # the others are never begun, and refer to us
            self.cycle = answered
            self._pipeline.clear()
            return
        if answered.is_last:
            self.cycle = answered
            self._pipeline.clear()
            self._intake.drop()
            self._linger()
        elif self._pipeline.first is not None:
            self._start_asgi_task(self._pipeline.first, self.app)
            # Not here: while an error is handled, the parser's own would get it as context.
            self._intake.resume()
        elif self._refusal is not None:
            self._send_refusal(self._refusal)
        elif self._framing.part is None:
            self._expect_another()
        if self._waits.taken:
            self._account()
        self.flow.resume_reading()

    # Reading.

    def _read(self, data: bytes) -> None:
        """Parse the next of what has arrived, and refuse it if it is wrong or too large."""
        if self._refusal is not None or self._lingering:
            return
        self._framing.begin_segment(data)
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            if isinstance(error, httptools.HttpParserInvalidURLError):
                self.url = self.url or b"?"  # there is one, though the parser did not give it
            self._refuse(_refusal_for(error))
            return
        uncounted = UNCOUNTED if self._framing.part == "head" else 0
        if self._framing.end_segment() > self._terms.head_size + uncounted:
            self._refuse(self._too_large())
        waits = self._framing.head or self._pipeline.waiting or self.flow.write_paused
        if waits or self._waits.taken:
            self._account()
        self._alarm.arm()

    def _check_head(self, method: bytes, version: str) -> None:
        """Let the head in that is complete now, or raise ProxyError."""
        limit = self._terms.head_size
        at_most = self._framing.at_most + len(self.headers)  # which is cheap
        if at_most > limit and guard.size(self.url, self.headers) > limit:
            raise self._too_large()
        guard.check_head(method, self.url, version, self.headers)
        # The parser takes other protocols, and more than one blank.
        if not self._framing.has(b"%b %b HTTP/1." % (method, self.url)):
            raise InvalidRequest("the first line must be a method, a target and HTTP/1.1")

    def _account(self) -> None:
        """Take room for what waits here, or refuse to read on where none is left; see WAITING."""
        waits = len(self._framing.head) + self._pipeline.weight
        if self._pipeline.full:
            waits += len(self._intake)
        if self.flow.write_paused and self._pipeline.first is not None:
            waits += len(self._pipeline.first.body)
        if not self._waits.take(waits) and self._refusal is None:
            self._framing.reopen_request()
            self._refuse(NoRoom())
            self._account()

    def _begin(self, method: bytes, version: str) -> None:
        """Have the application answer the request, when its turn comes."""
        path, mark, query = self.url.partition(b"?")
        scope = cast(dict[str, Any], self.scope)
        if mark and not query:
            scope["extensions"][EMPTY_QUERY] = True
        scope["method"] = method.decode("ascii")
        scope["http_version"] = version
        scope["raw_path"], scope["query_string"] = path, query
        scope["path"] = unquote(path.decode("ascii"))
        self.cycle = Response(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=Signal(),  # type: ignore[arg-type]  # with the methods of asyncio.Event
            expect_100_continue=version != "1.0" and expects_continue(self.headers),
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self._pipeline.add(self.cycle)
        if not self._pipeline.waiting:
            self._start_asgi_task(self.cycle, self.app)
            return
        self.cycle.weight = REQUEST + FIELD * len(self.headers) + guard.size(self.url, self.headers)
        if self._pipeline.full:
            self.flow.full = True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self.config.draining and not self._pipeline.waiting and self._refusal is None:
            cycle.keep_alive = False
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self._application_done)
        self.tasks.add(task)

    def _application_done(self, task: asyncio.Task[None]) -> None:
        """The application has returned; the cycle may have closed the connection."""
        self.tasks.discard(task)
        if self._gone is None and self.transport.is_closing():
            self._close()

    def _parse(self, data: bytes) -> None:
        """Feed the parser. It stops where a client offers an upgrade, which we ignore (§7.8)."""
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                rest = memoryview(rest)[offer.args[0] :]
            else:
                return
            if self._framing.part == "body":
                self._parse_head_again()

    def _parse_head_again(self) -> None:
        """Have a new parser read the body, by giving it the head without the offer to upgrade."""
        scope = cast(dict[str, Any], self.scope)
        line = f"{scope['method']} / HTTP/{scope['http_version']}\r\n".encode("ascii")
        fields = (b"%b: %b\r\n" % pair for pair in without(self.headers, b"upgrade"))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's is
        self.parser.feed_data(b"%b%b\r\n" % (line, b"".join(fields)))

    def _too_large(self) -> HeaderTooLarge:
        return HeaderTooLarge(f"the header is larger than {self._terms.head_size} bytes")

    # Deadlines.

    def _expect_soon(self) -> None:
        self._alarm.due = min(self._alarm.due, self.loop.time() + ON_ITS_WAY)
        self._alarm.arm()

    def _expect_another(self) -> None:
        within = ON_ITS_WAY if self.config.draining else self.timeout_keep_alive
        self._alarm.due = min(self.loop.time() + within, self.config.answers_until)
        self._alarm.arm()

    def _expect_body(self) -> None:
        self._alarm.due = min(self.loop.time() + BODY_SILENCE, self._body_due)

    def _expire(self) -> None:
        """What was waited for has not come."""
        if self._lingering and self.flow.write_paused:
            # The client has not taken all of the answer yet.
            self._alarm.due = self.loop.time() + LINGER
        elif self._lingering:
            self.transport.abort()
        elif self._framing.part == "head" and self.flow.read_paused:
            self._alarm.due = self.loop.time() + HEAD_WITHIN  # it is we who do not read
        elif self._framing.part == "head":
            self._refuse(RequestTimeout("the head of the request did not arrive in time"))
        elif self._framing.part is None and readable(self.transport.get_extra_info("socket")):
            self._expect_soon()  # it has arrived, and we are late
        elif self._framing.part is None:
            self._close()
        elif self._waits_for_us():
            self._body_due = self.loop.time() + BODY_WITHIN
            self._expect_body()
        else:
            self._refuse(RequestTimeout("the body of the request did not arrive in time"))

    def _waits_for_us(self) -> bool:
        """Whether the body is late because of us, not of the client; never once it is answered."""
        cycle = self.cycle
        unread = self.flow.read_paused or cycle.body or cycle.waiting_for_100_continue
        return bool(unread) and not cycle.response_complete

    # Refusals.

    def _refuse(self, error: ProxyError) -> None:
        """Read no more, and answer with ``error`` in its turn: answers keep the order of requests.

        Of the request in question the application may be at work on it, or it may wait for its
        turn, or its head may be incomplete.
        """
        self._refusal = error
        error.__traceback__ = error.__context__ = None  # they refer to us: a reference cycle
        self._alarm.due = NEVER
        if self._framing.part == "body" and not self._pipeline.waiting:
            self._withdraw(self.cycle, error)
            return
        self._terms.notify(refusal.record(error))
        if self._framing.part == "body":
            self.cycle = self._pipeline.drop_last()
        elif self._pipeline.first is None:
            self._send_refusal(error)

    def _withdraw(self, cycle: Response, error: ProxyError) -> None:
        """Take back a request that the application has begun with, without all of the body."""
        unanswered = not cycle.response_started
        if not cycle.response_complete:
            self._report_gone(error)
            cycle.disconnected = True
            cycle.body = bytearray()  # until the client takes what waits, the cycle may stay
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()
        if unanswered:
            self._send_refusal(error)
        elif cycle.ends_with_connection:
            self._close()  # with a reset, see Response: what is cut must not look whole
        else:
            self._linger()

    def _send_refusal(self, error: ProxyError) -> None:
        """Answer with an error, then close the connection."""
        # As long as there is no target, the parser's method is that of the request before.
        bodiless = bool(self.url) and self.parser.get_method() == b"HEAD"
        self.transport.write(refusal.last_response(error, bodiless=bodiless))
        self._linger()

    def _linger(self) -> None:
        """Close for writing, and throw away what arrives for a while, before closing altogether.

        Else whoever still sends gets a reset, and may lose the answer by it (RFC 9112 §9.6).
        """
        self._lingering = True
        self.flow.resume_reading()
        self.transport.set_write_buffer_limits(0)  # patience is to last until all is taken
        with suppress(OSError):  # asyncio's own transport says so where the client has left
            self.transport.write_eof()
        self._alarm.due = self.loop.time() + LINGER
        self._alarm.arm()

    # Leaving.

    def _report_gone(self, how: Gone) -> None:
        """Let the exchange know that nobody waits for its answer any more."""
        self._gone = how
        if self._on_gone is not None:
            self._on_gone(how)
            self._on_gone = None

    def _close(self) -> None:
        """Close the connection once the client has taken what waits, within our patience."""
        self.transport.set_write_buffer_limits(0)
        self.transport.close()

    def _end_patience(self) -> None:
        if self._patience is not None:
            self._patience.end()
            self._patience = None

    def _give_up(self) -> None:
        self._gone = ClientStalled()
        self.transport.abort()


def _refusal_for(error: httptools.HttpParserError) -> ProxyError:
    """The error to answer what the parser refused with; raises what is a fault of ours.

    The parser's message may quote what it received, and is not for clients.
    """
    cause, error.__context__ = error.__context__, None  # or each would be the other's
    if isinstance(cause, ProxyError):
        return cause
    if cause is not None and not isinstance(cause, httptools.HttpParserError):
        try:
            raise cause
        finally:  # its traceback refers to this frame: a reference cycle, with all that was sent
            del cause
    return InvalidRequest("what was sent is not a request of HTTP/1.1")
