"""A response as it arrives: its head, the parts of its body, and whether that is whole.

It is whole only when its framing says so. Nothing waits here: see answer.
https://www.rfc-editor.org/rfc/rfc9112#section-6
"""

from __future__ import annotations

from typing import Any

import httptools

from ..core.errors import UpstreamBrokeOff, UpstreamNonsense, UpstreamUnreachable
from ..core.fields import BODILESS, LENGTH_DIGITS, Fields, Named, by_name, controls
from .coding import Decoding, decoding

HEAD_SIZE = 64 << 10
"""The most that may arrive without a part of the body, in bytes: a head and interim ones before it,
a trailer, chunk extensions. None of that is handed on, so that back-pressure cannot bound it."""


class Response:
    """What has arrived of one response of the upstream ``name``.

    ``bodiless`` says that it has no body whatever its head announces, as that to a HEAD.

    It goes from nothing to ``_has_head``, and from either to ``_error`` or, with the whole body,
    to ``_complete``: whichever of the two is first stays.
    """

    __slots__ = (
        "_bodiless",
        "_complete",
        "_error",
        "_framing",
        "_has_head",
        "_name",
        "_parser",
        "_parts",
        "_reusable",
        "_until_closed",
        "fields",
        "named",
        "received",
        "status",
    )

    def __init__(self, name: str, *, bodiless: bool) -> None:
        self.status = 0
        self.fields: Fields = []
        self.named: Named = {}
        self.received = 0
        """How much of the body has arrived, as it stands on the wire, in bytes."""
        self._name = name
        self._bodiless = bodiless
        self._parser: Any = httptools.HttpResponseParser(self)
        self._has_head = False
        self._parts: list[bytes] = []
        """What has arrived of the body and was not taken yet."""
        self._complete = False
        self._error: Exception | None = None
        self._until_closed = False
        """Whether the end of the connection is the end of the body."""
        self._framing = 0
        """How much has arrived of the head, or since the last part of the body, in bytes."""
        self._reusable = True
        """Whether the connection may be, as far as the response goes."""

    def decoding(self) -> Decoding | None:
        """What decodes the body, part by part; None if it is plain. Raises UpstreamNonsense."""
        return decoding(b", ".join(self.named.get(b"content-encoding", ())))

    def forget_head(self) -> None:
        """Free the fields, of which a reader of the body has no more use."""
        self.fields, self.named = [], {}

    def lost(self, *, clean: bool) -> None:
        """The connection is gone; ``clean`` says that the upstream itself ended it."""
        self._reusable = False
        if self._until_closed and clean:
            self._complete = self._error is None
        elif self._has_head:
            self._fail(UpstreamBrokeOff(f"upstream {self._name} broke off its answer"))
        else:
            self._fail(UpstreamUnreachable(f"upstream {self._name} closed the connection"))

    @property
    def _over(self) -> bool:
        """Whether it is complete or has failed, which is for good."""
        return self._complete or self._error is not None

    def _misread(self, error: Exception) -> None:
        """The parser has raised ``error``; what it made out before stands."""
        self._reusable = False
        if isinstance(error, httptools.HttpParserError | httptools.HttpParserUpgrade):
            error = UpstreamNonsense(f"upstream {self._name} did not answer in HTTP")
        self._fail(error)  # be it a fault of ours: the rest would lack a part

    def _bound_framing(self, size: int) -> None:
        """So much has arrived, and none of it was of the body."""
        self._framing += size
        if self._framing > HEAD_SIZE:
            excess = "too much beside its answer" if self._has_head else "too large a head"
            self._fail(UpstreamNonsense(f"upstream {self._name} sent {excess}"))

    def _fail(self, error: Exception) -> None:
        if not self._over:
            self._error = error

    # For the parser.

    def on_message_begin(self) -> None:
        if self._has_head:  # nobody asked for a second answer
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # what comes later is a trailer
            self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._has_head:
            return
        if 100 <= status < 200 and status != 101:  # interim, RFC 9110 §15.2
            self.fields.clear()
        elif not 200 <= status <= 599:
            self._fail(UpstreamNonsense(f"upstream answered with status {status}"))
        elif controls(self.fields):
            self._fail(UpstreamNonsense("upstream sent a control character in its header"))
        else:
            self._begin(status)

    def on_body(self, part: bytes) -> None:
        if self._has_head and not self._complete:  # nobody asked for more
            self._parts.append(part)
            self.received += len(part)

    def on_message_complete(self) -> None:
        if self._has_head and not self._complete:
            self._reusable &= self._parser.should_keep_alive()
            self._complete = self._error is None

    def _begin(self, status: int) -> None:
        """The head is complete: see how the body is framed (RFC 9112 §6.3)."""
        self.named = by_name(self.fields)
        codings = self.named.get(b"transfer-encoding", [])
        lengths = self.named.get(b"content-length", [])
        # The parser, too, takes blanks off (RFC 9110 §5.5), but with a tab it reads no chunks.
        if codings and [coding.strip(b" ").lower() for coding in codings] != [b"chunked"]:
            self._fail(UpstreamNonsense("upstream sent a transfer-encoding that nobody asked for"))
            return
        if lengths and len(lengths[0]) > LENGTH_DIGITS:
            self._fail(UpstreamNonsense("upstream sent a content-length with too many digits"))
            return
        self.status = status
        self._has_head = True
        if self._bodiless or status in BODILESS:
            self._reusable = False  # some servers send a body, perhaps after the next request
            self.on_message_complete()
            return
        self._until_closed = not (codings or lengths)
        if codings and self._parser.get_http_version() == "1.0":
            self._reusable = False  # 1.0 has no chunks: some hop just passed them on
