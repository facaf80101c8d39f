"""Header fields: which are forwarded, and what the proxy itself reads and writes in them.

Fields are raw pairs of bytes, in order and with repeats: joining or sorting them is how proxies
lose cookies. Names are in lower case, as both parsers give them. https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from itertools import chain, product

Fields = list[tuple[bytes, bytes]]

Named = dict[bytes, list[bytes]]
"""The values of fields by their names, in order."""

HTTP_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
"""What names a field or a method, as a regular expression (RFC 9110 §5.6.2)."""

PSEUDONYM = b"anthropic-version-proxy"
VIA = (b"via", b"1.1 " + PSEUDONYM)
VERSION = b"anthropic-version"

BODILESS = (204, 304)
"""Statuses of answers without a body (RFC 9112 §6.3)."""

LENGTH_DIGITS = 20
"""The most digits of a length, which is below 2^64 to the parsers. With more it has zeros in front,
and Python reads no number of thousands of digits (RFC 9110 §8.6)."""

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)

_END_TO_END = frozenset((b"authorization", b"x-api-key", b"host", b"cache-control"))
_END_TO_END_PREFIXES = (b"anthropic-", b"content-")
"""These are forwarded even if ``Connection`` names them: they say what a request means or who sent
it, and nobody between may take that away."""

_LOOK_ALIKES = (
    *(b"anthropic%bversion" % odd for odd in (b"_", b".")),
    *(b"content%blength" % odd for odd in (b"_", b".")),
    b"proxy",  # to CGI it is HTTP_PROXY, and no client has another use for it
    b"script_name",  # Gunicorn takes its value off the beginning of the request's path
    *(b"transfer%bencoding" % odd for odd in (b"_", b".")),
    *(b"x%bapi%bkey" % odd for odd in set(product((b"-", b"_", b"."), repeat=2)) - {(b"-", b"-")}),
)
"""What some servers take for a field that is checked here, or that frames; see for_upstream."""

_DASHED = bytes.maketrans(b"_.", b"--")

_CONTROLS = bytes((*range(0x09), *range(0x0A, 0x20), 0x7F))

_NONE: frozenset[bytes] = frozenset()
_NOT_FOR_UPSTREAMS = HOP_BY_HOP | {b"host", b"expect", *_LOOK_ALIKES}


def values(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Every value of the field ``name``, in order."""
    return [value for key, value in fields if key == name]


def by_name(fields: Sequence[tuple[bytes, bytes]]) -> Named:
    """The values of all fields by name: to look up several costs less than with ``values``."""
    named = {name: [value] for name, value in fields}
    if len(named) == len(fields):  # as nearly always
        return named
    named = {}
    for name, value in fields:
        if name in named:
            named[name].append(value)
        else:
            named[name] = [value]
    return named


def without(fields: Iterable[tuple[bytes, bytes]], *names: bytes) -> Fields:
    """``fields`` without those of these names."""
    return [pair for pair in fields if pair[0] not in names]


def alike(name: bytes) -> bytes:
    """One spelling for all names that CGI, WSGI and PHP take for the same (RFC 3875 §4.1.18)."""
    return name.translate(_DASHED)


def controls(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether one has a control character, which some take for its end (RFC 9110 §5.5)."""
    text = b"".join(chain.from_iterable(fields))
    return len(text.translate(None, _CONTROLS)) != len(text)


def has_body(names: Container[bytes]) -> bool:
    """Whether a request with fields of these names announces a body (RFC 9112 §6)."""
    return b"content-length" in names or b"transfer-encoding" in names


def expects_continue(fields: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a client waits for 100 Continue before it sends the body (RFC 9110 §10.1.1)."""
    if b"expect" not in dict(fields):  # as nearly always
        return False
    return b"100-continue" in [value.strip().lower() for value in values(fields, b"expect")]


def times_forwarded(named: Named) -> int:
    """How often proxies of our name have forwarded a message with these fields (RFC 9110 §7.6.3).

    An entry of ``Via`` is a protocol, the name of who received the message, and perhaps a comment.
    """
    if b"via" not in named:
        return 0
    entries = b",".join(named[b"via"]).lower().split(b",")
    return sum(entry.split()[1:2] == [PSEUDONYM] for entry in entries)


def _forwarded(fields: Fields, removed: frozenset[bytes], connection: Sequence[bytes]) -> Fields:
    """All fields but those of names in ``removed``, and those that ``Connection`` lists."""
    if connection and connection not in ([b"keep-alive"], [b"close"]):
        removed |= _listed_in(connection)
    return [pair for pair in fields if pair[0] not in removed]


def _listed_in(connection: Sequence[bytes]) -> frozenset[bytes]:
    """The names of the fields that are for the next hop alone (RFC 9110 §7.6.1)."""
    listed = {token.strip().lower() for value in connection for token in value.split(b",")}
    return frozenset(
        name
        for name in listed
        if name not in _END_TO_END and not name.startswith(_END_TO_END_PREFIXES)
    )


def for_upstream(fields: Fields, named: Named, removed: frozenset[bytes] = _NONE) -> Fields:
    """The client's fields as they are forwarded; ``named`` are the same by name.

    Without those of names in ``removed``; without ``Host``, for the upstream has its own, and
    ``Expect``, which our server has answered. CGI and WSGI make one variable of ``x-api-key`` and
    ``x_api_key`` (RFC 3875 §4.1.18): without such look-alikes of a field that was checked here,
    too, for they were not.
    """
    connection = named.get(b"connection", ())
    return [*_forwarded(fields, _NOT_FOR_UPSTREAMS | removed, connection), VIA]


def for_client(fields: Fields, named: Named, removed: frozenset[bytes] = _NONE) -> Fields:
    """The upstream's fields as they are forwarded; ``named`` and ``removed`` as above."""
    return [*_forwarded(fields, HOP_BY_HOP | removed, named.get(b"connection", ())), VIA]


def with_version(fields: Sequence[tuple[bytes, bytes]], version: str) -> Fields:
    """``fields`` with exactly one ``anthropic-version``; the API refuses two, even if they agree.

    It stands where the first one stood, or at the end.
    """
    others = without(fields, VERSION)
    has_one = len(others) != len(fields)
    at = [name for name, _ in fields].index(VERSION) if has_one else len(others)
    others.insert(at, (VERSION, version.encode()))
    return others


def safe_value(text: str) -> bytes:
    """``text`` from a body as the value of a field: visible ASCII alone (RFC 9110 §5.5)."""
    return re.sub(rb"[^\x20-\x7e]", b"?", text.encode("ascii", "replace"))


def key_of(named: Named) -> bytes | None:
    """The API key that the request carries; ``x-api-key`` wins, as it does at the API.

    SDKs of today send an empty one, if that is how it is set, beside the token that counts.
    """
    for value in named.get(b"x-api-key", ()):
        if value:
            return value
    for value in named.get(b"authorization", ()):
        scheme, _, token = value.partition(b" ")
        if scheme.lower() == b"bearer" and token.strip():
            return token.strip()
    return None


def with_key(fields: Iterable[tuple[bytes, bytes]], form: str, key: bytes | None) -> Fields:
    """``fields`` with the API key in the ``form`` that the upstream reads.

    ``form`` is ``as_is``, ``x-api-key`` or ``bearer``; ``key`` replaces the client's, None keeps
    it. A request without any key stays without one: the upstream says so best.
    """
    pairs = list(fields)
    key = key_of(by_name(pairs)) if key is None else key
    if form == "as_is" or key is None:
        return pairs
    kept = without(pairs, b"x-api-key", b"authorization")
    if form == "bearer":
        return [*kept, (b"authorization", b"Bearer " + key)]
    return [*kept, (b"x-api-key", key)]
