"""Who a client is: what it says of itself, and how its key is recognized without being shown.

Both are made of what a stranger sent, so they are short, of few characters, and never a key.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256

from ..core.fields import Named, key_of
from ..core.redaction import without_keys
from ..observe.record import UNKNOWN

LOOKED_AT = 200
"""How much is looked at of what a client says of itself, and remembered for a while, in bytes."""

_PRODUCT = re.compile(r"([A-Za-z][\w.-]{0,39})(?:/(v?\d[\w.+-]{0,19}))?", re.ASCII)
"""One product of a user agent with its version (RFC 9110 §10.1.5), as far as it is kept."""

_SDK = re.compile(r"(?:Async)?Anthropic/(Python|JS) (\d[\w.+-]{0,19})", re.ASCII)
_SDK_NAMES = {"Python": "anthropic-python", "JS": "anthropic-typescript"}

_SAYS_WHO = (b"anthropic-sdk", b"client", b"user-agent")
"""The fields by which clients tell, the SDKs of 2023 in the first two."""


def kind_of(named: Named) -> str:
    """The program that a client is, as ``anthropic-python/0.2.10``, or ``other`` or UNKNOWN."""
    for name in _SAYS_WHO:
        for value in named.get(name, ()):
            return _kind(value[:LOOKED_AT])
    return UNKNOWN


def fingerprint_of(named: Named) -> str:
    """Twelve hexadecimal digits by which a client's key is known again, or UNKNOWN without one."""
    key = key_of(named)
    return UNKNOWN if key is None else sha256(key).hexdigest()[:12]


@lru_cache(maxsize=256)
def _kind(value: bytes) -> str:
    text = value.decode("latin-1").strip()
    if without_keys(text) != text:  # one gone astray, and a part of it may be in the name
        return "other"
    if sdk := _SDK.match(text):  # these name the language where others have their version
        return f"{_SDK_NAMES[sdk[1]]}/{sdk[2]}"
    product = _PRODUCT.match(text)
    if product is None or product[1].startswith("sk-"):  # a key gone astray
        return "other"
    return product[0]
