"""The header fields of a request and of its answer, as an exchange passes them on."""

from __future__ import annotations

from ..core.fields import (
    VERSION,
    VIA,
    Fields,
    for_client,
    for_upstream,
    safe_value,
    with_version,
)
from ..core.nudges import Nudge
from ..core.redaction import beginning
from ..observe.record import LONGEST_VALUE
from ..translation.translation import Translation
from ..upstream.answer import Answer
from .client import Client

RESENT = frozenset((b"content-length",))
"""Fields of a request that are not true of its translation."""

REASKED = RESENT | {b"accept-encoding"}
"""The same, where its answer will be translated, too."""

REMADE = frozenset((b"content-type", b"content-length", b"content-encoding", b"etag", VERSION))
"""Fields of an answer that are not true of its translation."""

LONGEST_LIST = 1000
"""How much of the names of what was left out an answer repeats, in characters."""

_NONE: frozenset[bytes] = frozenset()


def of_request(
    client: Client, translation: Translation | None, removed: frozenset[bytes] = _NONE
) -> Fields:
    """The client's fields but those ``removed``, for the version that the upstream is to speak.

    Without a ``translation`` that is the client's own.
    """
    fields = for_upstream(client.fields, client.named, removed)
    if translation is not None:
        return with_version(fields, translation.upstream)
    version = client.named[VERSION][0]  # there is one, or 2023-01-01 would be assumed
    return with_version(fields, version.decode("latin-1"))


def of_answer(
    answer: Answer | None,
    translation: Translation | None,
    nudge: Nudge | None,
    removed: frozenset[bytes] = _NONE,
) -> Fields:
    """The upstream's fields but those ``removed``, and what we add to say what was done.

    There is no ``answer`` where the upstream was not reached.
    """
    fields = [VIA] if answer is None else for_client(answer.fields, answer.named, removed)
    if nudge is not None:
        fields += nudge.fields(fields)
    if translation is not None and translation.differs:
        if answer is not None and VERSION in removed and VERSION in answer.named:
            # A service may say which version it spoke, and a client read by what it says.
            fields.append((VERSION, translation.client.encode()))
        fields += _of_translation(translation)
    return fields


def _of_translation(translation: Translation) -> Fields:
    versions = f"{translation.client}, upstream={translation.upstream}"
    fields = [(b"x-proxy-version", versions.encode())]
    if translation.dropped:
        names = beginning(", ".join(translation.dropped), LONGEST_LIST)
        fields.append((b"x-proxy-dropped", safe_value(names)))
    if translation.model is not None:
        fields.append((b"x-proxy-model", safe_value(translation.model[:LONGEST_VALUE])))
    return fields
