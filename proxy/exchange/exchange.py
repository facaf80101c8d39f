"""One exchange from end to end: the only place where client, upstream and translation meet.

However it ends, the upstream's call is closed, the client's answer is either finished or visibly
cut, and one record says how it ended.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from random import random

from ..bridge.models import Learned
from ..config import Config
from ..core import jsontext
from ..core.errors import (
    InvalidRequest,
    ProxyError,
    UpstreamError,
    UpstreamNonsense,
    UpstreamRefused,
    refused_by_body,
)
from ..core.fields import BODILESS, VERSION, Fields, without
from ..core.nudges import Nudge
from ..core.redaction import beginning
from ..observe.record import LONGEST_VALUE, Record
from ..runtime.interruption import Interruptible
from ..runtime.offload import offload
from ..translation.stream import StreamTranslation
from ..translation.translation import Translation
from ..upstream.answer import Answer
from ..upstream.upstream import Upstream
from . import heads
from .client import Client
from .extensions import ClientLeft, ClientStalled
from .keepalive import Keepalive
from .negotiation import negotiate, translates
from .recording import record_failure, record_translation
from .routing import Match
from .streaming import Stream, in_turns

ANSWER_LIMIT = 16 << 20
"""The largest answer that is translated as a whole, in bytes. On the wire it may be compressed to a
thousandth of that, and each call into C that goes through it holds up the loop."""

ERROR_LIMIT = 1 << 20
"""The largest error body that is read for its message, in bytes."""

RESENDABLE = 64 << 10
"""The largest body that is read whole before it is passed on, so that it can be sent again."""

OFFLOAD_FROM = 64 << 10
"""From what size on a body is translated off the loop, in bytes: a megabyte of short turns takes
half a second."""

EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
UNBUFFERED = (b"x-accel-buffering", b"no")  # nginx in front of us would hold events back

_SILENT = nullcontext()


class Exchange:
    """One request and its response, while they are under way."""

    __slots__ = (
        "__weakref__",
        "_answer",
        "_client",
        "_config",
        "_events",
        "_learned",
        "_nudge",
        "_translation",
        "record",
    )

    def __init__(self, config: Config, learned: Learned, client: Client, record: Record) -> None:
        self.record = record
        self._config = config
        self._learned = learned
        self._client = client
        self._translation: Translation | None = None
        self._events: StreamTranslation | None = None
        """The translation of the upstream's stream, if there is one."""
        self._answer: Answer | None = None
        self._nudge: Nudge | None = None

    async def run(self, match: Match, upstream: Upstream, work: Interruptible) -> None:
        """Relay the request along its route; raises ProxyError and ClientLeft."""
        self.record.route = match.route.name
        self.record.upstream = upstream.name
        versions = self._client.named.get(VERSION, ())
        translation = negotiate(self._config, match.route, match.endpoint, versions, self._learned)
        self._translation = translation
        if translation is not None:
            self.record.client_version = translation.client
            self.record.upstream_version = translation.upstream
        self._client.when_left(work.interrupt)
        if translation is None or not translates(match, self._client.method, translation):
            await self._pass_through(match, upstream)
        else:
            translation.differs = True  # over a bridge both sides may speak the same version
            self._announce_end(match.route.nudge)
            await self._translate(match, upstream, translation)
        if self._events is not None and self._events.failure is not None:
            record_failure(self.record, self._events.failure)

    def finished(self) -> Record:
        """The record, completed with what is known at the end of the exchange."""
        record, client, translation = self.record, self._client, self._translation
        record.seconds = time.monotonic() - record.began
        record.bytes_received = client.bytes_received
        record.bytes_sent = client.bytes_sent
        if self._answer is not None:
            record.upstream_bytes = self._answer.received
        if translation is not None and translation.changes:
            record_translation(record, translation)
        if self._events is not None:
            record.events_received = self._events.events_taken
            record.events_sent = self._events.events_made
        return record

    def close(self) -> None:
        """End the upstream's call; after a whole answer its connection may be kept."""
        if self._answer is None:
            return
        if self._client.complete:
            self._answer.close_soon()
        else:
            self._answer.close()

    async def end_early(self, error: ClientLeft | ProxyError) -> None:
        """Record what ended the exchange early, and tell the client if it is still there."""
        match error:
            case ClientStalled():
                self.record.ended = "client stalled"
            case ClientLeft():
                self._record_leaving()
            case _:
                await self._end_failed(error)

    async def _end_failed(self, error: ProxyError) -> None:
        """End an exchange that failed: with an HTTP error if the head is not sent yet, else with
        what its stream still owes the client.
        """
        if self._client.complete:
            return
        if self._client.ending:  # the failure came too late to spoil the answer
            await self._client.end()
            if self._client.gone:  # it did not take the end, so that the answer was cut after all
                record_failure(self.record, error)
            return
        record_failure(self.record, error)
        if not self._client.started:
            self.record.status = error.status
            await self._client.refuse(error, self._fields_for_client(heads.REMADE))
        elif self._events is not None and self._events.started:
            ended = self._events.ended
            owed = self._client.unwritten if ended else self._events.finish(error)
            wait = self._client.write_all(owed)
            if wait is not None:
                await wait
            await self._client.end()

    def _record_leaving(self) -> None:
        """Record when the client left: after the stop it had all that it wanted."""
        if self._events is not None and self._events.ended:
            self.record.ended = "client left after the stop"
        elif self._client.bytes_sent:
            self.record.ended = "client left mid-stream"
        else:
            self.record.ended = "client left before the first byte"

    # Passed through.

    async def _pass_through(self, match: Match, upstream: Upstream) -> None:
        """Relay bytes as they come; at most the version in the header is another one."""
        client = self._client
        answer = await upstream.call(
            client.method,
            self._target(match.path),
            heads.of_request(client, self._translation),
            await self._upload(),
        )
        await self._pass_back(self._answered(answer))

    async def _upload(self) -> bytes | AsyncIterator[bytes] | None:
        """The body to pass on; a small one is read whole, so that it can be sent again."""
        client = self._client
        if not client.has_body:
            return None
        if b"content-length" in client.named and client.announced <= RESENDABLE:
            return await client.body(RESENDABLE)
        return client.upload()

    async def _pass_back(self, answer: Answer) -> None:
        self.record.streams |= _is_stream(answer)
        fields = self._fields_for_client()
        if answer.status in BODILESS:  # with it the server would expect a body
            fields = without(fields, b"content-length")
        await self._start(answer.status, fields)
        answer.forget_head()
        await answer.forward(self._client.write)
        await self._client.end()
        if answer.status >= 400:
            self.record.ended = "upstream refused"

    # Translated.

    def _announce_end(self, nudge: Nudge | None) -> None:
        """Have the answer announce the end of the version; raises Brownout during a brown-out."""
        self._nudge = nudge
        if nudge is None:
            return
        refusal = nudge.refusal(datetime.now(UTC), random())  # noqa: S311  (no secret)
        if refusal is not None:
            raise refusal

    async def _translate(self, match: Match, upstream: Upstream, translation: Translation) -> None:
        answer = self._answered(await self._ask(match, upstream, translation))
        if not translation.answers:
            await self._pass_back(answer)
            return
        if answer.status >= 400:
            raise translation.error(await _refusal(answer))
        _check_answer(answer, streams=translation.streams)
        if translation.streams:
            await self._stream(answer, translation, keepalive=match.route.keepalive == "timestamp")
        else:
            told = await answer.read_all(ANSWER_LIMIT)
            if len(told) < OFFLOAD_FROM:
                translated = translation.response(told)
            else:
                translated = await offload(partial(translation.response, told))
            self._first_byte(200)
            await self._client.answer(200, self._fields_for_client(heads.REMADE), translated)

    async def _ask(self, match: Match, upstream: Upstream, translation: Translation) -> Answer:
        """Send the translated request, of which nothing is in memory any more at the return."""
        sent = await self._client.body(self._config.limits.request_body)
        if b"content-encoding" in self._client.named:
            raise InvalidRequest("a body to translate must come plain, without content-encoding")
        if len(sent) < OFFLOAD_FROM:
            endpoint, body = translation.request(match.endpoint, sent)
        else:
            endpoint, body = await offload(partial(translation.request, match.endpoint, sent))
        del sent  # what is asked in its place waits for the answer, and is as large
        removed = heads.REASKED if translation.answers else heads.RESENT
        fields = heads.of_request(self._client, translation, removed)
        if translation.answers:
            fields.append((b"accept-encoding", b"identity"))
        call = upstream.call("POST", self._target(match.prefix + endpoint), fields, body)
        del body  # the call needs it once more, with its head, and lets go of it as well
        return await call

    async def _stream(self, answer: Answer, translation: Translation, *, keepalive: bool) -> None:
        """Send the client's events as the upstream's arrive.

        The head waits for the upstream's first event: until then a failure can have an HTTP status
        of its own, the one way that all old clients understand.
        """
        self.record.streams = True
        client = self._client
        decode = answer.decoding()
        events = self._events = translation.stream()
        stream = Stream(client, events, self._begin_stream)
        take = in_turns(decode, stream.take, stream.enough) if decode else stream.take
        with _pinging(client, translation) if keepalive else _SILENT:
            await answer.forward(take, stream.enough)
        if decode is not None and not events.ended:
            decode.end()
        if not events.started:
            raise UpstreamNonsense("upstream's stream ended before its first event")
        if (wait := client.write_all(events.finish())) is not None:
            await wait
        await client.end()

    async def _begin_stream(self, followed: bool) -> None:
        fields = [EVENT_STREAM, *self._fields_for_client(heads.REMADE), UNBUFFERED]
        await self._start(200, fields, followed=followed)
        if self._answer is not None:
            self._answer.forget_head()

    # Heads.

    def _target(self, path: str) -> str:
        query = self._client.query
        return path if query is None else f"{path}?{query.decode('ascii')}"

    def _answered(self, answer: Answer) -> Answer:
        """Take the head of the upstream's answer; that of the request is of no more use."""
        self._answer = answer
        self._client.forget_head()
        for request_id in answer.named.get(b"request-id", ()):
            self.record.request_id = beginning(request_id.decode("latin-1"), LONGEST_VALUE)
        return answer

    def _fields_for_client(self, removed: frozenset[bytes] = frozenset()) -> Fields:
        return heads.of_answer(self._answer, self._translation, self._nudge, removed)

    async def _start(self, status: int, fields: Fields, *, followed: bool = False) -> None:
        self._first_byte(status)
        await self._client.start(status, fields, followed=followed)

    def _first_byte(self, status: int) -> None:
        self.record.status = status
        self.record.first_byte = time.monotonic()


def _check_answer(answer: Answer, *, streams: bool) -> None:
    """Raise UpstreamNonsense for an answer that cannot be translated, by its head."""
    if answer.status != 200:
        raise UpstreamNonsense(f"upstream answered with status {answer.status}")
    if _is_stream(answer) != streams:
        asked, got = ("a stream", "one body") if streams else ("one body", "a stream")
        raise UpstreamNonsense(f"upstream answered with {got}, though {asked} was asked for")


def _pinging(client: Client, translation: Translation) -> Keepalive:
    return Keepalive(client, lambda: translation.keepalive(datetime.now(UTC)))


def _is_stream(answer: Answer) -> bool:
    content_type = b"".join(answer.named.get(b"content-type", ())).lower()
    return content_type.startswith(b"text/event-stream")


async def _refusal(answer: Answer) -> UpstreamRefused:
    """The upstream's error in the API's envelope, though its edge may answer with anything."""
    try:
        body = await answer.read_all(ERROR_LIMIT)
        parsed = jsontext.loads_at_once(body)
    except jsontext.NotJSON:
        parsed = None
    except UpstreamError:  # the body is lost, the status is not
        body, parsed = b"", None
    return refused_by_body(answer.status, parsed, body.decode("utf-8", "replace"))
