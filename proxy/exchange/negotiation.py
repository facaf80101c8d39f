"""Decides which version the client speaks, and which of its upstream's versions is used for it.

https://docs.anthropic.com/en/api/versioning
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from types import MappingProxyType

from ..bridge.models import Learned
from ..config import Config, Route, Snapshots
from ..core.errors import InvalidVersion, UnsupportedVersion, VersionRequired
from ..translation.translation import Options, Translation
from ..versions import dates, steps
from ..versions.complete_through_messages import CompleteThroughMessages
from .routing import Match

_DATE = re.compile(rb"\d{4}-\d\d-\d\d")
_NEARLY_A_DATE = re.compile(rb"[\d./-]{1,20}")
"""What an error message may repeat of a wrong version; anything else may be a key by mistake."""


def negotiate(
    config: Config,
    route: Route,
    endpoint: str,
    versions: Sequence[bytes],
    learned: Learned = MappingProxyType({}),
) -> Translation | None:
    """The translation of a request of ``endpoint`` whose version fields are ``versions``.

    None if the version is unknown here, and left to the upstream to judge. ``learned`` is what
    upstreams said about their models. Raises VersionRequired, InvalidVersion or UnsupportedVersion.
    """
    client = client_version(
        versions, config.version_when_missing, pass_unknown=config.unknown_versions == "pass"
    )
    if client is None:
        return None
    known = learned.get(route.upstream, {})
    bridge = CompleteThroughMessages(config.models, known) if route.bridge else None
    speaks = config.upstreams[route.upstream].speaks
    if bridge is not None:
        used = nearest(speaks, bridge.version, bridge.living)
    else:
        used = nearest(speaks, client, endpoint)
    options = _options(route.snapshots, config.limits.event, strict=route.strict)
    return Translation(client, used, bridge, options)


@lru_cache(maxsize=64)
def _options(snapshots: Snapshots, event_limit: int, *, strict: bool) -> Options:
    return Options(strict=strict, newest_only=snapshots == "latest", event_limit=event_limit)


def translates(match: Match, method: str, translation: Translation) -> bool:
    """Whether a request is translated; others pass through, if need be with another version."""
    return match.route.translate and method == "POST" and translation.concerns(match.endpoint)


def client_version(values: Sequence[bytes], when_missing: str, *, pass_unknown: bool) -> str | None:
    """The version in the ``values`` of ``anthropic-version``.

    None for a date newer than all known versions, if ``pass_unknown`` leaves those to the upstream.
    ``when_missing`` is the version of clients that name none, or ``reject``. Raises
    VersionRequired, InvalidVersion or UnsupportedVersion.
    """
    if not values:
        if when_missing == "reject":
            raise VersionRequired("anthropic-version: header is required")
        return when_missing
    version = _one_date(values)
    if version in dates():
        return version
    if version > max(dates()) and pass_unknown:
        return None
    known = ", ".join(dates())
    raise UnsupportedVersion(
        f'anthropic-version: "{version}" is not a version that is known here ({known})'
    )


def nearest(speaks: Sequence[str], client: str, endpoint: str) -> str:
    """The version among ``speaks`` with the fewest changes of ``endpoint`` from ``client``.

    Among equals it is the one with the fewest versions between, and rather a newer one.
    """
    if len(speaks) == 1:
        return speaks[0]
    known = dates()

    def cost(version: str) -> tuple[int, int, bool]:
        changes = sum(endpoint in step.kind.endpoints for step in steps(client, version))
        return changes, abs(known.index(version) - known.index(client)), version < client

    return min(speaks, key=cost)


def _one_date(values: Sequence[bytes]) -> str:
    """The date in ``values``, of which a repeated field may have several if they are the same."""
    distinct = {value.strip() for value in values}
    if len(distinct) > 1:
        raise InvalidVersion("anthropic-version: header is repeated with different values")
    value = distinct.pop()
    if not _DATE.fullmatch(value):
        shown = f'"{value.decode()}"' if _NEARLY_A_DATE.fullmatch(value) else "header"
        raise InvalidVersion(f"anthropic-version: {shown} is not a date (YYYY-MM-DD)")
    version = value.decode("ascii")
    try:
        date.fromisoformat(version)
    except ValueError:
        raise InvalidVersion(f'anthropic-version: "{version}" is not a day of any year') from None
    return version
