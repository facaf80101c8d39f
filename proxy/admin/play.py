"""One exchange to look at: what goes over both wires, shown while it happens.

It takes the same routes as any other, but on a relay and connections of its own, so that those of
real clients are never tapped. It counts as an open exchange and is logged, but not in the ledger
and the metrics, for nobody depends on it. What it shows is bounded in size and time, and contains
no key.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.types import Message, Receive, Scope

from .. import config
from ..bridge.models import Learned
from ..config import Config
from ..core import jsontext
from ..core.fields import VERSION, Fields
from ..exchange.exchanges import OpenExchanges
from ..exchange.extensions import CONNECTION, ClientLeft, Gone
from ..exchange.relay import Relay
from ..observe.record import Record, log_exchange
from ..runtime.daemonthread import started
from ..runtime.offload import offload
from ..upstream.answer import Answer
from ..upstream.upstream import Upstream

log = logging.getLogger("proxy")

MOST_SHOWN = 8 << 20
"""The most that is shown of an exchange, in bytes; then it is ended."""

TIME_LIMIT = 120.0
"""The most seconds that an exchange may take; then it is ended."""

_SHOWN = (b"content-type", VERSION, b"x-proxy-", b"retry-after", b"request-id")
"""The beginnings of the fields that are shown; others may hold secrets."""

_KEYS = (b"x-api-key", b"authorization")

Show = Callable[[dict[str, Any]], None]
"""Takes what has happened, to make a line of it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A request to play."""

    path: str
    version: str | None
    key: bytes
    body: bytes

    @property
    def fields(self) -> Fields:
        fields = [
            (b"host", b"playground"),
            (b"user-agent", b"playground"),
            (b"accept-encoding", b"identity"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self.body)).encode()),
            (b"x-api-key", self.key),
        ]
        if self.version is not None:
            fields.append((VERSION, self.version.encode("latin-1")))
        return fields

    def scope(self, viewer: Viewer) -> Scope:
        """The request as an ASGI scope."""
        return {
            "type": "http",
            "method": "POST",
            "path": self.path,
            "raw_path": self.path.encode("latin-1"),
            "query_string": b"",
            "headers": self.fields,
            "extensions": {CONNECTION: viewer},
        }


class Play:
    """One exchange, shown as JSON lines.

    Each is an object with ``ms`` since the beginning, and one of: ``explain``, what /-/explain
    answers; a ``wire`` (``client`` or ``upstream``) with ``sent``, ``fields`` and ``body`` for a
    request, ``status`` and ``fields`` for the head of an answer, or ``text`` for what has come of
    its body; ``ended``, which comes last, with ``error`` where something went wrong.
    """

    def __init__(self, config: Config, exchanges: OpenExchanges, learned: Learned) -> None:
        self._settings = config.upstreams
        self._upstreams: dict[str, TappedUpstream] = {}
        self._relay = Relay(config, self._upstreams, exchanges, self._finish, learned)
        self._began = time.monotonic()
        self._lines: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._left_to_show = MOST_SHOWN
        self._viewer = Viewer(self._show)
        self._ended: dict[str, Any] = {"ended": "crashed", "error": "a fault of the proxy's"}
        self._stopped_why = ""

    async def lines(self, sample: Sample, explained: dict[str, Any]) -> AsyncGenerator[bytes]:
        """The lines, as they come into being; closing the generator ends the exchange."""
        try:
            await offload(partial(self._show_sample, sample, explained))
            del explained  # it may be megabytes, and a viewer may be slow
            playing = asyncio.create_task(self._play(sample))
            try:
                while not playing.done() or self._lines:
                    while self._lines:
                        yield self._lines.popleft()
                    self._changed.clear()
                    if not playing.done():
                        await self._changed.wait()
            finally:
                self._viewer.leave()
                await asyncio.wait([playing])
        finally:  # they refer to us: a reference cycle, with all the lines that were not taken
            del self._relay, self._viewer

    def _show_sample(self, sample: Sample, explained: dict[str, Any]) -> None:
        """Make the first lines, which may be long: in a thread, as nothing else makes any yet."""
        self._show({"explain": explained})
        sent = {"sent": f"POST {sample.path}", "fields": _shown_fields(sample.fields)}
        self._show({"wire": "client", **sent, "body": sample.body.decode("utf-8", "replace")})

    async def _play(self, sample: Sample) -> None:
        limit = asyncio.get_running_loop().call_later(
            TIME_LIMIT, self._stop, f"it took longer than {TIME_LIMIT:g} seconds"
        )
        try:
            if await self._connected():
                scope = sample.scope(self._viewer)
                await self._relay(scope, _receive(sample.body), self._viewer.take)
        except Exception:
            log.exception("a fault of ours in the playground")
        finally:
            limit.cancel()
            for upstream in self._upstreams.values():
                upstream.close()
            # Now: the trusted certificates are a megabyte, and the viewer may be slow.
            self._upstreams.clear()
            self._left_to_show = MOST_SHOWN
            self._show(self._ended)

    async def _connected(self) -> bool:
        """Make the upstreams, off the loop: it reads the trusted certificates. Their disk may hang.

        False if it takes longer than TIME_LIMIT.
        """
        try:
            async with asyncio.timeout(TIME_LIMIT):
                for name, settings in self._settings.items():
                    made = started(partial(TappedUpstream, settings, self._show))
                    self._upstreams[name] = await asyncio.wrap_future(made)
        except TimeoutError:
            why = f"trusted certificates could not be read within {TIME_LIMIT:g} seconds"
            self._ended = {"ended": "not begun", "error": why}
            return False
        return True

    def _show(self, line: dict[str, Any]) -> None:
        ms = round((time.monotonic() - self._began) * 1000, 1)
        text = jsontext.dumps({"ms": ms, **line}) + b"\n"
        self._left_to_show -= len(text)
        if self._left_to_show >= 0:
            self._lines.append(text)
            self._changed.set()
        else:
            self._stop(f"it is longer than the {MOST_SHOWN >> 20} MiB that are shown")

    def _stop(self, why: str) -> None:
        self._stopped_why = self._stopped_why or why
        self._viewer.leave()

    def _finish(self, record: Record) -> None:
        self._ended = {"ended": record.ended, "error": self._stopped_why or record.error}
        log_exchange(record)


class Viewer:
    """The client of a play, which shows what it gets; see exchange.extensions.Connection."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._left_callback: Callable[[Gone], None] | None = None
        self._left = False

    def when_left(self, tell: Callable[[Gone], None]) -> None:
        if self._left:
            tell(ClientLeft())
        else:
            self._left_callback = tell

    def leave(self) -> None:
        """End the exchange, as when a client leaves."""
        if not self._left and self._left_callback is not None:
            self._left_callback(ClientLeft())
        self._left = True
        self._left_callback = None  # it refers to us: a reference cycle, with the request in it

    def write(self, parts: Sequence[bytes]) -> bool:
        if text := self._decode(b"".join(parts)):
            self._show({"wire": "client", "text": text})
        return True

    async def take(self, message: Message) -> None:
        """Take what is sent: ASGI's ``send``."""
        if message["type"] == "http.response.start":
            fields = _shown_fields(message["headers"])
            self._show({"wire": "client", "status": message["status"], "fields": fields})
        else:
            self.write((message["body"],))


class TappedUpstream(Upstream):
    """An upstream whose wire is shown."""

    def __init__(self, settings: config.Upstream, show: Show) -> None:
        super().__init__(settings)
        self._show = show

    async def call(
        self, method: str, target: str, fields: Fields, body: bytes | AsyncIterator[bytes] | None
    ) -> Answer:
        """As any upstream; a ``body`` is shown if it is whole, as all translated ones are."""
        # Fields that the configuration sets may be secret, whatever their names.
        shown = [field for field in self._fields(fields) if field not in self._set]
        sent = {"sent": f"{method} {self._prefix}{target}", "fields": _shown_fields(shown)}
        text = body.decode("utf-8", "replace") if isinstance(body, bytes) else None
        self._show({"wire": "upstream", **sent, "body": text, "upstream": self.name})
        answer = await super().call(method, target, fields, body)
        head = {"status": answer.status, "fields": _shown_fields(answer.fields)}
        self._show({"wire": "upstream", **head})
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        answer.tap(lambda part: self._show({"wire": "upstream", "text": decode(part)}))
        return answer


def _receive(body: bytes) -> Receive:
    """ASGI's ``receive`` for a client that has sent ``body``, and waits."""
    rest = [body]

    async def receive() -> Message:
        if not rest:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": rest.pop(), "more_body": False}

    return receive


def _shown_fields(fields: Fields) -> list[tuple[str, str]]:
    """The fields to show, by name and value; of a key only that there is one."""
    return [
        (name.decode("latin-1"), "…" if name in _KEYS else value.decode("latin-1"))
        for name, value in fields
        if name.startswith(_SHOWN) or name in _KEYS
    ]
