"""Header fields: which cross the proxy, which end here, and what we say of ourselves.

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

_NEVER_NAMED_AWAY = (b"anthropic-", b"content-")
"""A client cannot have these stripped by naming them in ``Connection``."""

_NOT_NAMED_AWAY = frozenset((b"authorization", b"x-api-key", b"host", b"cache-control"))

_LOOK_ALIKES = (
    *(b"anthropic%bversion" % odd for odd in (b"_", b".")),
    *(b"content%blength" % odd for odd in (b"_", b".")),
    b"proxy",  # to CGI it is HTTP_PROXY, and no client has another use for it
    b"script_name",  # what it names, Gunicorn leaves out where the path of the request begins
    *(b"transfer%bencoding" % odd for odd in (b"_", b".")),
    *(b"x%bapi%bkey" % odd for odd in set(product((b"-", b"_", b"."), repeat=2)) - {(b"-", b"-")}),
)
"""What some servers take for a field that decides here, or that frames; see for_upstream."""

_DASHED = bytes.maketrans(b"_.", b"--")

_CONTROLS = bytes((*range(0x09), *range(0x0A, 0x20), 0x7F))

_NONE: frozenset[bytes] = frozenset()
_ENDS_HERE = HOP_BY_HOP | {b"host", b"expect", *_LOOK_ALIKES}


def values(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Every value of the field ``name``, in order."""
    return [value for key, value in fields if key == name]


def by_name(fields: Sequence[tuple[bytes, bytes]]) -> Named:
    """The values of all fields, for who asks for several: that costs less than ``values`` does."""
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
    """``fields`` less those named."""
    return [pair for pair in fields if pair[0] not in names]


def alike(name: bytes) -> bytes:
    """One spelling for all names that CGI, WSGI and PHP take for the same (RFC 3875 §4.1.18)."""
    return name.translate(_DASHED)


def controls(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a name or value has a character that ends it too early for some (RFC 9110 §5.5)."""
    text = b"".join(chain.from_iterable(fields))
    return len(text.translate(None, _CONTROLS)) != len(text)


def has_body(names: Container[bytes]) -> bool:
    """Whether a request with fields of these names announces a body (RFC 9112 §6)."""
    return b"content-length" in names or b"transfer-encoding" in names


def times_forwarded(named: Named) -> int:
    """How often proxies of our name have forwarded a message with these fields (RFC 9110 §7.6.3).

    An entry of ``Via`` is a protocol, who received, and perhaps a comment.
    """
    if b"via" not in named:
        return 0
    entries = b",".join(named[b"via"]).lower().split(b",")
    return sum(entry.split()[1:2] == [PSEUDONYM] for entry in entries)


def _less(fields: Fields, ended: frozenset[bytes], connection: Sequence[bytes]) -> Fields:
    """The fields that cross a proxy: all but those that have ``ended`` (RFC 9110 §7.6.1).

    These are also the ones which ``Connection`` names, unless naming them would take away what the
    request means or who sent it.
    """
    if connection and connection not in ([b"keep-alive"], [b"close"]):
        ended |= _named_by(connection)
    return [pair for pair in fields if pair[0] not in ended]


def _named_by(connection: Sequence[bytes]) -> frozenset[bytes]:
    named = {token.strip().lower() for value in connection for token in value.split(b",")}
    return frozenset(
        name
        for name in named
        if name not in _NOT_NAMED_AWAY and not name.startswith(_NEVER_NAMED_AWAY)
    )


def for_upstream(fields: Fields, named: Named, less: frozenset[bytes] = _NONE) -> Fields:
    """The client's fields as they go to the upstream; ``named`` are the same by name.

    Those called as in ``less`` are left out, too.
    ``Host`` is the upstream's own business, ``Expect`` was answered by our server. What CGI and
    WSGI (RFC 3875 §4.1.18) cannot tell from a field that decides here, decides nothing there.
    """
    return [*_less(fields, _ENDS_HERE | less, named.get(b"connection", ())), VIA]


def for_client(fields: Fields, named: Named, less: frozenset[bytes] = _NONE) -> Fields:
    """The upstream's fields as they go to the client; ``named`` and ``less`` as above."""
    return [*_less(fields, HOP_BY_HOP | less, named.get(b"connection", ())), VIA]


def with_version(fields: Sequence[tuple[bytes, bytes]], version: str) -> Fields:
    """``fields`` with exactly one ``anthropic-version``; the API refuses two, even if they agree.

    It stands where the first one stood, or at the end.
    """
    kept = without(fields, VERSION)
    told = len(kept) != len(fields)
    at = [name for name, _ in fields].index(VERSION) if told else len(kept)
    kept.insert(at, (VERSION, version.encode()))
    return kept


def safe_value(text: str) -> bytes:
    """``text`` as a field value: what came from a body must not break a header (RFC 9110 §5.5)."""
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
