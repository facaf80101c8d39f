"""HTTP/1.1 as a client speaks it: one connection, one call on it after the other.

What is sent stands on the wire as it was given, and what arrives is handed on as it came. A
connection is used again only while both ends must agree on what was said: nothing but the answer
has arrived, and all of the request was sent. https://www.rfc-editor.org/rfc/rfc9112
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Protocol, cast

from ..runtime.sockets import bound_unsent, enable_keepalive, readable
from .answer import UNREAD_SIZE, Answer
from .pending import ended_cleanly, left_over, nothing_pending

TURNS = 4
"""How many turns of the event loop a write waits for what has arrived to be read; it takes two."""

DECRYPTED_AT_ONCE = 4 << 10
"""How much decrypted text ends a turn, in bytes. Event loops would decrypt 256 KiB of the wire and
go on with more; in records of one byte that is 11 KiB of text, which takes 14 ms."""


class Owner(Protocol):
    """What owns connections, and is called when they become free or are closed."""

    def keep(self, connection: Connection) -> None:
        """``connection`` is free for the next call."""

    def forget(self, connection: Connection) -> None:
        """``connection`` is closed; called once."""


class Connection(asyncio.Protocol):
    """One connection of ``owner`` to an upstream, for one call at a time."""

    def __init__(self, owner: Owner) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed = False
        self._owner = owner
        self._transport: asyncio.Transport
        self._plain: asyncio.Transport
        """The transport below TLS, which may still hold much that TLS has sent; or the same."""
        self._socket: socket.socket
        self._encrypted = False
        self._pauses = 0
        """How many calls of pause_reading wait for their resume_reading."""
        self._clean_end = False
        """Whether the upstream ended the connection itself, over TLS with a close_notify."""
        self._answer: Answer | None = None
        self._greeting: bytes | None = b""
        """What the upstream sent before the first request; None from that on."""
        self._writable: asyncio.Future[None] | None = None

    async def start_tls(self, tls: ssl.SSLContext, host: str, patience: float) -> None:
        """Upgrade to TLS; the peer must prove within ``patience`` seconds to be ``host``.

        Raises OSError. uvloop would do it while connecting, but a call that is cancelled between
        the two leaks what was made for TLS: 70 KB, for a minute or until the garbage collector
        runs.
        """
        plain = self._transport
        if self._greeting:
            self.close()
            raise ssl.SSLError("it spoke before TLS did")
        if plain.is_closing():
            raise ConnectionResetError
        try:
            encrypted = await self.loop.start_tls(
                plain, self, tls, server_hostname=host, ssl_handshake_timeout=patience
            )
        except BaseException:
            plain.abort()  # close would send a close_notify, and wait for the peer's
            raise
        encrypted = cast(asyncio.Transport, encrypted)
        encrypted.set_write_buffer_limits(UNREAD_SIZE)
        self.connection_made(encrypted)
        self._plain = plain

    def call(
        self, request: bytes, name: str, idle: float, total: float, *, bodiless: bool
    ) -> Answer:
        """Send ``request``; returns the answer to it, of which nothing has arrived yet.

        ``name`` is the upstream's in messages; ``idle`` bounds each silence of the answer,
        ``total`` all of it, in seconds.
        """
        self._answer = answer = Answer(self, name, idle, total, bodiless=bodiless)
        greeting, self._greeting = self._greeting, None
        if greeting:  # another protocol's, or the refusal of a server that is full
            answer.greeted(greeting)
        if self.closed:
            answer.lost(clean=False)
        else:
            self._transport.write(request)
        return answer

    async def write(self, data: bytes) -> None:
        """Send more of the request; returns when the upstream keeps up.

        What has arrived is read first: the upstream may have refused the rest and reset the
        connection, and a write that fails discards what was not read.
        """
        for _ in range(TURNS):
            if self.closed or not self._transport.is_reading() or not readable(self._socket):
                break
            await asyncio.sleep(0)
        if self.closed:
            return  # connection_lost has ended the answer
        self._transport.write(data)
        if self._writable is not None:
            await self._writable

    def end(self, answer: Answer, *, reusable: bool) -> None:
        """The call that had ``answer`` is over."""
        if self._answer is not answer:
            return
        self._answer = None
        layers = (self._transport, self._plain)
        sent = not any(each.get_write_buffer_size() for each in layers)  # it may be answered before
        if reusable and sent and not self.closed:
            self._owner.keep(self)
        else:
            self.close()

    def usable(self) -> bool:
        """Whether it is open, and nothing has arrived since the last answer.

        That would be the end of the connection, or what the next call would take for its answer.
        While reading is paused, TLS may already have taken it out of the socket.
        """
        if self.closed or readable(self._socket):
            return False
        return not self._encrypted or nothing_pending(self._transport.get_extra_info("ssl_object"))

    def close(self) -> None:
        """Close the connection without another word."""
        self.closed = True
        self._transport.abort()

    def pause_reading(self) -> None:
        """Read nothing, so that the upstream waits, until resume_reading was called as often."""
        self._pauses += 1
        if self._pauses == 1 and not self.closed:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo one pause_reading."""
        self._pauses -= 1
        if self._pauses == 0 and not self.closed:
            self._transport.resume_reading()

    # For the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._plain = cast(asyncio.Transport, transport)
        self._socket = transport.get_extra_info("socket")
        self._encrypted = transport.get_extra_info("ssl_object") is not None
        enable_keepalive(self._socket)
        bound_unsent(self._socket)

    def data_received(self, data: bytes) -> None:
        if self._answer is not None:
            self._answer.arrived(data)
        elif self._greeting is None:
            self.close()
        else:
            self._greeting += data
        if self._encrypted and len(data) > DECRYPTED_AT_ONCE:
            self.pause_reading()
            self.loop.call_soon(self.resume_reading)

    def eof_received(self) -> None:
        """An upstream that sends no more will not answer: the rest of the request is pointless."""
        self._clean_end = ended_cleanly(self._transport.get_extra_info("ssl_object"))
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        by_us, self.closed = self.closed, True
        self.resume_writing()
        try:
            if self._answer is not None and not by_us:
                for part in left_over(self._socket, self._transport.get_extra_info("ssl_object")):
                    self._answer.arrived(part)
                    if self._answer is None:  # this part completed it
                        break
            if self._answer is not None:
                # Something did arrive, though it could not be decrypted.
                self._answer.untouched &= not isinstance(exc, ssl.SSLError)
                self._answer.lost(clean=self._clean_end and exc is None)
        finally:  # or it would count as in use for ever
            self._owner.forget(self)

    def pause_writing(self) -> None:
        self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None
