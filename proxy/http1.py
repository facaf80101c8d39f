"""HTTP/1.1 as a client speaks it: one connection, one call on it after the other.

What is sent stands on the wire as it was given, and what arrives is handed on as it came. A
connection is used on only while both ends must agree on what was said: nothing more than the answer
was heard, nothing of the request is still to be sent. https://www.rfc-editor.org/rfc/rfc9112
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol, cast

from .answer import UNREAD_SIZE, Answer
from .sockets import enable_keepalive

LEFT_OVER = 1 << 20
"""How much of an answer is read when its connection is lost, in bytes."""

TURNS = 4
"""How often the event loop may look for what has arrived before more of a request is sent. It hears
at the second turn."""


DECIPHERED = 4 << 10
"""After how much at a time others have their turn, in bytes, where it was deciphered: event loops
decipher 256 KiB and go on with more. Those are 11 KiB in records of one byte, and take 14 ms."""


class Keeper(Protocol):
    """Whose a connection is."""

    def keep(self, connection: Connection) -> None:
        """It can take the next call."""

    def forget(self, connection: Connection) -> None:
        """It is closed; told once."""


class Connection(asyncio.Protocol):
    """One connection to an upstream, for one call at a time; ``keeper`` has made it."""

    def __init__(self, keeper: Keeper) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed = False
        self._keeper = keeper
        self._transport: asyncio.Transport
        self._plain: asyncio.Transport
        """The same, or what is below TLS, which may hold much that TLS has let go of."""
        self._socket: socket.socket
        self._deciphers = False
        self._pauses = 0
        """For how many reasons nothing is read."""
        self._said_all = False
        """Whether the upstream has said that it will say no more."""
        self._answer: Answer | None = None
        self._greeting: bytes | None = b""
        """What the upstream said before it was asked anything; None once it was."""
        self._writable: asyncio.Future[None] | None = None

    async def encipher(self, tls: ssl.SSLContext, host: str, patience: float) -> None:
        """Speak TLS from now on, with who can prove within ``patience`` seconds to be ``host``.

        Raises OSError. uvloop would do it as it connects, but who is cancelled between the two
        loses hold of what it has made for TLS: 70 KB, for a minute or until the garbage collector
        finds them.
        """
        plain = self._transport
        if self._greeting:
            self.close()
            raise ssl.SSLError("it spoke before TLS did")
        if plain.is_closing():
            raise ConnectionResetError
        try:
            enciphered = await self.loop.start_tls(
                plain, self, tls, server_hostname=host, ssl_handshake_timeout=patience
            )
        except BaseException:
            plain.abort()  # or it would say goodbye first, and wait to be told the same
            raise
        self.connection_made(cast(asyncio.Transport, enciphered))
        self._plain = plain

    def call(
        self, request: bytes, name: str, idle: float, total: float, *, bodiless: bool
    ) -> Answer:
        """Send ``request``; its answer is to be read from an upstream called ``name``.

        ``idle`` and ``total`` bound its silences and all of it, in seconds.
        """
        self._answer = answer = Answer(self, name, idle, total, bodiless=bodiless)
        greeting, self._greeting = self._greeting, None
        if greeting:  # another protocol's, or the refusal of a server that is full
            answer.greeted(greeting)
        if self.closed:
            answer.lost(said_all=False)
        else:
            self._transport.write(request)
        return answer

    async def write(self, data: bytes) -> None:
        """Send more of the request; returns when the upstream keeps up.

        What it has said is heard first: it may have refused the rest and reset the connection, and
        a write that fails discards what was not read yet.
        """
        for _ in range(TURNS):
            if self.closed or not self._transport.is_reading() or not _readable(self._socket):
                break
            await asyncio.sleep(0)
        if self.closed:
            return  # the answer knows
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
            self._keeper.keep(self)
        else:
            self.close()

    def quiet(self) -> bool:
        """Whether it stands, and nothing has come since the last answer that nobody has read yet.

        That would be the upstream's farewell, or what the next call would take for its answer. Over
        TLS it may have left the socket, where nothing was to be read for a while.
        """
        if self.closed or _readable(self._socket):
            return False
        return not self._deciphers or _says_nothing(self._transport.get_extra_info("ssl_object"))

    def close(self) -> None:
        """Close the connection without another word."""
        self.closed = True
        self._transport.abort()

    def pause_reading(self) -> None:
        """Make the upstream wait until resume_reading was called as often."""
        self._pauses += 1
        if self._pauses == 1 and not self.closed:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Let the upstream go on."""
        self._pauses -= 1
        if self._pauses == 0 and not self.closed:
            self._transport.resume_reading()

    # For the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._plain = cast(asyncio.Transport, transport)
        self._socket = transport.get_extra_info("socket")
        self._deciphers = transport.get_extra_info("ssl_object") is not None
        enable_keepalive(self._socket)

    def data_received(self, data: bytes) -> None:
        if self._answer is not None:
            self._answer.arrived(data)
        elif self._greeting is None:
            self.close()
        else:
            self._greeting += data
        if self._deciphers and len(data) > DECIPHERED:
            self.pause_reading()
            self.loop.call_soon(self.resume_reading)

    def eof_received(self) -> None:
        """One that says no more will not answer, so that the rest of the request is not for it."""
        self._said_all = _said_goodbye(self._transport.get_extra_info("ssl_object"))
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        by_us, self.closed = self.closed, True
        self.resume_writing()
        try:
            if self._answer is not None and not by_us:
                for part in _left_over(self._socket, self._transport.get_extra_info("ssl_object")):
                    self._answer.arrived(part)
                    if self._answer is None:  # it was all that was missing
                        break
            if self._answer is not None:
                # What cannot be deciphered was said all the same.
                self._answer.untouched &= not isinstance(exc, ssl.SSLError)
                self._answer.lost(said_all=self._said_all and exc is None)
        finally:  # or it would count as used for ever
            self._keeper.forget(self)

    def pause_writing(self) -> None:
        self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None


def _readable(opened: socket.socket) -> bool:
    """Whether something has arrived, be it the end."""
    if opened.fileno() < 0:
        return True  # it is closed, of which TLS tells a turn later
    if sys.platform == "win32":
        return bool(select.select([opened], [], [], 0)[0])
    poll = select.poll()  # select itself knows only the first thousand files
    poll.register(opened, select.POLLIN)
    return bool(poll.poll(0))


def _left_over(lost: socket.socket, tls: ssl.SSLObject | None) -> Iterator[bytes]:
    """What had arrived before a write failed, or while the upstream was made to wait.

    The event loops read no more of it; uvloop lets go of what TLS has read, too. What stands behind
    that in the socket cannot be had: who could decipher it is gone.
    """
    if tls is None and sys.platform == "win32":
        return
    left = LEFT_OVER
    with suppress(OSError):
        while left > 0:
            part = tls.read(UNREAD_SIZE) if tls else os.read(lost.fileno(), UNREAD_SIZE)
            if not part:
                return
            left -= len(part)
            yield part


def _says_nothing(tls: ssl.SSLObject) -> bool:
    """Whether nothing waits to be deciphered; some of what does is lost."""
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return True
    except ssl.SSLError:
        return False
    return False


def _said_goodbye(tls: ssl.SSLObject | None) -> bool:
    """Whether an end is the upstream's own: TLS has a word for it, anyone can close a connection.

    asyncio does not tell the two apart. https://www.rfc-editor.org/rfc/rfc9112#section-9.8
    """
    try:
        return tls is None or not tls.read(1)
    except ssl.SSLError:
        return False
