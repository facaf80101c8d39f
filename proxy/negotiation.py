"""Which version the client speaks, which of the upstream's is used for it, and what lies between.

https://docs.anthropic.com/en/api/versioning
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date

from .config import Config, Route
from .errors import InvalidVersion, UnsupportedVersion, VersionRequired
from .translation import Manner, Translation
from .versions import KNOWN_VERSIONS, NEWEST
from .versions.complete_through_messages import CompleteThroughMessages

_DATE = re.compile(rb"\d{4}-\d\d-\d\d")


def negotiate(config: Config, route: Route, versions: Sequence[bytes]) -> Translation | None:
    """The translation for a request that names ``versions``; None leaves it to the upstream.

    Raises VersionRequired, InvalidVersion or UnsupportedVersion.
    """
    spoken = client_version(
        versions, config.version_when_missing, pass_unknown=config.unknown_versions == "pass"
    )
    if spoken is None:
        return None
    bridge = CompleteThroughMessages(config.models) if route.bridge else None
    speaks = config.upstreams[route.upstream].speaks
    manner = Manner(
        strict=route.strict,
        newest_only=route.snapshots == "latest",
        event_limit=config.limits.event,
    )
    return Translation(
        spoken, nearest(speaks, bridge.version if bridge else spoken), bridge, manner
    )


def client_version(
    values: Sequence[bytes], when_missing: str, *, pass_unknown: bool = True
) -> str | None:
    """The version that the fields ``anthropic-version`` name.

    None is a date newer than all we know, which ``pass_unknown`` lets through for the upstream to
    judge. ``when_missing`` is the version of clients that name none, or ``reject``. Raises
    VersionRequired, InvalidVersion or UnsupportedVersion.
    """
    if not values:
        if when_missing == "reject":
            raise VersionRequired("anthropic-version: header is required")
        return when_missing
    version = _one_date(values)
    if version in KNOWN_VERSIONS:
        return version
    if version > NEWEST and pass_unknown:
        return None
    known = ", ".join(KNOWN_VERSIONS)
    raise UnsupportedVersion(
        f'anthropic-version: "{version}" is not a version that is known here ({known})'
    )


def nearest(speaks: Sequence[str], client: str) -> str:
    """The version among ``speaks`` that needs the least translation for a ``client`` version."""
    newer = [version for version in speaks if version >= client]
    if newer:
        return min(newer)
    raise UnsupportedVersion(
        f'anthropic-version: "{client}" is newer than what the upstream speaks ({max(speaks)})'
    )


def _one_date(values: Sequence[bytes]) -> str:
    """A field repeated with one value says one thing; with two it says nothing."""
    distinct = {value.strip() for value in values}
    if len(distinct) > 1:
        raise InvalidVersion("anthropic-version: header is repeated with different values")
    value = distinct.pop()
    shown = value[:40].decode("ascii", "replace")
    if not _DATE.fullmatch(value):
        raise InvalidVersion(f'anthropic-version: "{shown}" is not a date (YYYY-MM-DD)')
    try:
        date.fromisoformat(shown)
    except ValueError:
        raise InvalidVersion(f'anthropic-version: "{shown}" is not a day of any year') from None
    return shown
