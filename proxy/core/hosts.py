"""By which names this proxy may be asked, and by whose web pages.

A page of a stranger, in the browser of a user who can reach the proxy, has two ways to abuse that:

DNS rebinding. Whoever owns a name can let it lead to their page first, then to this proxy. For the
browser both are then the same site, and the page can read what is answered here. But the name
stands in ``Host``, which no page can change. So a request is let in that asks by an address, by a
name that nobody can register, or by one that the operator has listed.
https://www.rfc-editor.org/rfc/rfc9110#section-7.2

Cross-site requests. Some requests any page may send to any site, only without reading the answer.
Whose page it is stands in ``Origin``, which no page can change either. Browsers leave it out where
they only get something, an image or a link; there ``Sec-Fetch-Site`` says whether the page is of
another site, if the request goes to https or to this machine.
https://www.rfc-editor.org/rfc/rfc6454#section-7 https://www.w3.org/TR/fetch-metadata/
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address

from .errors import ForeignHost, ForeignOrigin
from .fields import Fields, values

NAME = r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?"
"""A name of DNS in ASCII; a dot at its end changes nothing (RFC 1034 §3.1)."""

_RESERVED = (
    ".localhost",  # RFC 6761 §6.3
    ".test",  # RFC 6761 §6.2
    ".local",  # RFC 6762 §3; a cluster's names end in .svc.cluster.local
    ".internal",  # ICANN's resolution 2024.07.29.06
    ".home.arpa",  # RFC 8375 §3
)
"""How names end that nobody can register. Of .svc and .lan that is true today, but not promised."""

_WEB = ("http", "https")
"""Schemes of an origin whose host is a name of DNS. That of a browser's extension is an identifier,
which has no dot and so would look private."""

_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::[0-9]*)?")


def check(fields: Fields, listed: Collection[str], setting: str) -> None:
    """Let a request in whose ``Host`` is a name of ours, or raise ForeignHost.

    ``listed`` are the operator's names, each as ``normal`` gives it, from that ``setting``. A
    request without a name is let in, for it is no browser's.
    """
    for value in values(fields, b"host"):
        name = _without_port(value.decode("latin-1"))
        if value and name not in listed and not is_unregistrable(name):
            raise ForeignHost(name, setting)


def check_origin(fields: Fields, listed: Collection[str], setting: str) -> None:
    """Let a request in that no page sends, or a page of ours, or raise ForeignOrigin.

    A page is ours if its host is the one it asks us by, or is listed, or is private. An address is
    private only if it is this machine's. ``null`` stands for an origin that is not shown.
    """
    asked = {_without_port(value.decode("latin-1")) for value in values(fields, b"host")} - {""}
    origins = values(fields, b"origin")
    if not origins and b"cross-site" in values(fields, b"sec-fetch-site"):
        origins = [b"null"]
    for value in origins:
        scheme, _, host = value.decode("latin-1").partition("://")
        name = _without_port(host)
        address = _address(name)
        private = address.is_loopback if address else _is_private(name)
        ours = private and (scheme in _WEB or name == "localhost")
        if not ours and name not in listed and name not in asked:
            raise ForeignOrigin(
                f"not for pages of others: yours has to be at a private name, or one in {setting}"
            )


def normal(name: str) -> str:
    """``name`` in the one spelling to compare: for DNS, capitals and a dot at the end are equal."""
    return name.lower().removesuffix(".")


def is_unregistrable(name: str) -> bool:
    """Whether ``name``, normal, is an address or a name that nobody can register."""
    return _address(name) is not None or _is_private(name)


def _is_private(name: str) -> bool:
    """Whether it is a name that nobody can register.

    One without a dot, such as a container's, is resolved in the user's own network alone, whose
    name servers are trusted.
    """
    return re.fullmatch(NAME, name) is not None and ("." not in name or name.endswith(_RESERVED))


def _without_port(host: str) -> str:
    """The name in a ``Host``, normal; all of it where it has none. Blanks may follow it."""
    found = _HOST.fullmatch(host.rstrip(" \t"))
    return normal(found[1]) if found else host


def _address(name: str) -> IPv4Address | IPv6Address | None:
    """``name`` as an address: of IPv4, or of IPv6 in brackets (RFC 3986 §3.2.2)."""
    bracketed = name.startswith("[") and name.endswith("]")
    try:
        address = ip_address(name[1:-1] if bracketed else name)
    except ValueError:
        return None
    return address if bracketed == (address.version == 6) else None
