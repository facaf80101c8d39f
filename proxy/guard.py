"""The door: what a request must look like before anything of it is read.

The server's parser takes more than the upstream should be asked with. What is refused here never
reaches a route. https://www.rfc-editor.org/rfc/rfc9112#section-3.2
"""

from __future__ import annotations

import re

from .errors import HeaderTooLarge, InvalidRequest
from .fields import Fields, has_body, values

_ORIGIN_FORM = re.compile(rb"/[\x21-\x22\x24-\x7e]*")


def check(fields: Fields, target: bytes, header_bytes: int) -> None:
    """Let a request in, or raise HeaderTooLarge or InvalidRequest.

    ``target`` is the raw path; ``header_bytes`` bounds all names and values together.
    """
    if sum(len(name) + len(value) + 4 for name, value in fields) > header_bytes:
        raise HeaderTooLarge(f"the header is larger than {header_bytes} bytes")
    if not _ORIGIN_FORM.fullmatch(target):
        raise InvalidRequest("the request target must be a path of visible ASCII characters")
    if values(fields, b"upgrade") and has_body(fields):
        # The parser leaves HTTP at such a head, and the body would be lost (RFC 9110 §7.8).
        raise InvalidRequest(
            "a request with a body cannot ask for an upgrade", ((b"connection", b"close"),)
        )
    if len(values(fields, b"host")) > 1:
        raise InvalidRequest("the request has more than one Host")
