"""What the head of a request must look like before it is routed.

The server's parser is more lenient than an upstream may be. What is refused here never reaches a
route. https://www.rfc-editor.org/rfc/rfc9112#section-3.2
"""

from __future__ import annotations

import re
from itertools import chain

from ..core.errors import HeaderTooLarge, InvalidRequest, LoopDetected, NotSupported
from ..core.fields import LENGTH_DIGITS, Fields, Named, times_forwarded, values

ROUNDS = 5
"""How often proxies of our name may have forwarded a request before it is taken for a loop. One in
the pod, one of the team and one at the edge are no loop; five times round one costs little."""

_ORIGIN_FORM = re.compile(rb"/[\x21-\x22\x24-\x7e]*")
_HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]*|\[[\w.~!$&'()*+,;=:-]+\])(?::\d*)?[ \t]*")

_ENCODED_CONTROL = re.compile(rb"%(?:[01][0-9a-f]|7f)", re.IGNORECASE)


def size(target: bytes, fields: Fields) -> int:
    """The size of a head in bytes: its target, and all names and values with what divides them."""
    return len(target) + 4 * len(fields) + sum(map(len, chain.from_iterable(fields)))


def check_head(method: bytes, target: bytes, version: str, fields: Fields) -> None:
    """Let a head in as it stood on the wire, or raise InvalidRequest or NotSupported.

    This is for our server, which closes the connection then: after a request that is refused for
    its framing, nobody can say where the next one begins.
    """
    if version not in ("1.1", "1.0"):
        raise InvalidRequest("HTTP/1.1 is spoken here")
    if method in (b"CONNECT", b"TRACE"):  # a tunnel, and an echo of what we add: our key
        raise NotSupported("CONNECT and TRACE are not served here")
    if not _ORIGIN_FORM.fullmatch(target):
        # RFC 9112 §3.2.2 would have the absolute form taken, too. Whoever sends it takes us for a
        # proxy to the host that it names, and its key would go to another.
        raise InvalidRequest("the request target must be a path of visible ASCII characters")
    names = dict(fields)
    if version == "1.1" and b"host" not in names:
        raise InvalidRequest("the request has no Host")
    if len(names.get(b"content-length", b"")) > LENGTH_DIGITS:
        raise InvalidRequest("the request has a Content-Length with too many digits")
    if b"transfer-encoding" in names:
        _check_codings(version, values(fields, b"transfer-encoding"))


def _check_codings(version: str, codings: list[bytes]) -> None:
    """Let a body in whose end all servers find in the same place (RFC 9112 §6.1)."""
    if version == "1.0":
        raise InvalidRequest("HTTP/1.0 has no Transfer-Encoding")
    if [coding.strip().lower() for coding in codings] != [b"chunked"]:
        raise NotSupported("the only Transfer-Encoding that is understood is chunked")


def check(fields: Fields, named: Named, target: bytes, header_bytes: int) -> None:
    """Let a request in, or raise HeaderTooLarge, InvalidRequest or LoopDetected.

    ``target`` is the raw path; ``header_bytes`` bounds what ``size`` gives.
    """
    if size(target, fields) > header_bytes:
        raise HeaderTooLarge(f"the header is larger than {header_bytes} bytes")
    _check_path(target)
    hosts = named.get(b"host", ())
    if len(hosts) > 1:
        raise InvalidRequest("the request has more than one Host")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise InvalidRequest("the request has a Host that is none")
    if times_forwarded(named) >= ROUNDS:
        raise LoopDetected("the request goes round in a loop: an upstream leads back to this proxy")


def _check_path(path: bytes) -> None:
    """Let a path in that can be forwarded as it stands, and decoded without breaking a line.

    What it means is for routing to judge: ``..`` and ``%2F`` pass here.
    """
    if not _ORIGIN_FORM.fullmatch(path):
        raise InvalidRequest("the request target must be a path of visible ASCII characters")
    if b"%" in path and _ENCODED_CONTROL.search(path):
        raise InvalidRequest("the request target must not have control characters")
