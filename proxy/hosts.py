"""Names of ours: those that cannot lead elsewhere at a stranger's will.

To a browser, who has the same name is the same site. Whoever owns a name can let it lead to a page
of theirs, and then to this proxy (DNS rebinding): in the browser of a user who can reach us, that
page could read what is answered here. The name stands in ``Host``, which no page can change. So who
asks by an address is answered, or by a name that nobody can own, or by one that the operator says
is ours. https://www.rfc-editor.org/rfc/rfc9110#section-7.2

What a page may send without reading the answer, it may send to any name. Whose page it is stands in
``Origin``, which no page can change either. https://www.rfc-editor.org/rfc/rfc6454#section-7
Images, links and whatever else a browser only gets have none; there ``Sec-Fetch-Site`` says whether
it is somebody else's, towards https and this machine. https://www.w3.org/TR/fetch-metadata/
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address

from .errors import ForeignHost, ForeignOrigin
from .fields import Fields, values

NAME = r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?"
"""A name as DNS has it, in ASCII; a dot at its end changes nothing (RFC 1034 §3.1)."""

_RESERVED = (
    ".localhost",  # RFC 6761 §6.3
    ".test",  # RFC 6761 §6.2
    ".local",  # RFC 6762 §3; a cluster's names end in .svc.cluster.local
    ".internal",  # ICANN's resolution 2024.07.29.06
    ".home.arpa",  # RFC 8375 §3
)
"""How names end that nobody can register. That is promised of no other, though .svc and .lan lead
nowhere today."""

_WEB = ("http", "https")
"""How pages come to us whose names are those of DNS. An extension's has no dot, either."""

_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::[0-9]*)?")


def check(fields: Fields, listed: Collection[str], setting: str) -> None:
    """Let a request in that asks by a name of ours, or raise ForeignHost.

    ``listed`` are further ones, each as ``normal`` gives it, from that ``setting``. Without a name
    it is let in: every browser sends one.
    """
    for value in values(fields, b"host"):
        name = _without_port(value.decode("latin-1"))
        if value and name not in listed and not belongs_to_nobody(name):
            raise ForeignHost(name, setting)


def check_origin(fields: Fields, listed: Collection[str], setting: str) -> None:
    """Let a request in that no page makes, or one of ours, or raise ForeignOrigin.

    A page is ours by the name that it asks us by, and by one that is listed, or private. An address
    may be anybody's but this machine's. ``null`` stands for whatever a page does not want to show.
    """
    asked = {_without_port(value.decode("latin-1")) for value in values(fields, b"host")} - {""}
    origins = values(fields, b"origin")
    if not origins and b"cross-site" in values(fields, b"sec-fetch-site"):
        origins = [b"null"]
    for value in origins:
        scheme, _, place = value.decode("latin-1").partition("://")
        name = _without_port(place)
        address = _address(name)
        private = address.is_loopback if address else _is_private(name)
        ours = private and (scheme in _WEB or name == "localhost")
        if not ours and name not in listed and name not in asked:
            raise ForeignOrigin(
                f"not for pages of others: yours has to be at a private name, or one in {setting}"
            )


def normal(name: str) -> str:
    """The one spelling of all that DNS does not tell apart."""
    return name.lower().removesuffix(".")


def belongs_to_nobody(name: str) -> bool:
    """Whether ``name``, normal, is an address or a name that nobody can register."""
    return _address(name) is not None or _is_private(name)


def _is_private(name: str) -> bool:
    """Whether nobody can register it.

    One without a dot, a container's, say, is found in the user's own network alone. Who answers for
    names there is trusted.
    """
    return re.fullmatch(NAME, name) is not None and ("." not in name or name.endswith(_RESERVED))


def _without_port(host: str) -> str:
    """The name in a Host, normal; all of it where it is none. Blanks behind it may be left."""
    found = _HOST.fullmatch(host.rstrip(" \t"))
    return normal(found[1]) if found else host


def _address(name: str) -> IPv4Address | IPv6Address | None:
    """The address that it is: of IPv4, or of IPv6 in brackets (RFC 3986 §3.2.2)."""
    bracketed = name.startswith("[") and name.endswith("]")
    try:
        address = ip_address(name[1:-1] if bracketed else name)
    except ValueError:
        return None
    return address if bracketed == (address.version == 6) else None  # noqa: PLR2004
