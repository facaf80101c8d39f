"""Which version the client speaks, which of the upstream's is used for it, and what lies between.

https://docs.anthropic.com/en/api/versioning
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from types import MappingProxyType

from .config import Config, Route, Snapshots
from .errors import InvalidVersion, UnsupportedVersion, VersionRequired
from .routing import Match
from .translation import Options, Translation
from .versions import dates, path
from .versions.complete_through_messages import CompleteThroughMessages
from .versions.models import Learned

_DATE = re.compile(rb"\d{4}-\d\d-\d\d")
_NEARLY_A_DATE = re.compile(rb"[\d./-]{1,20}")
"""What may be repeated to show what is wrong with it; anything else may be a key gone astray."""


def negotiate(
    config: Config,
    route: Route,
    endpoint: str,
    versions: Sequence[bytes],
    learned: Learned = MappingProxyType({}),
) -> Translation | None:
    """The translation for a request of ``endpoint`` that names ``versions``.

    None leaves it to the upstream, which may know a version that we do not. ``learned`` is what
    upstreams said of their models.

    Raises VersionRequired, InvalidVersion or UnsupportedVersion.
    """
    spoken = client_version(
        versions, config.version_when_missing, pass_unknown=config.unknown_versions == "pass"
    )
    if spoken is None:
        return None
    known = learned.get(route.upstream, {})
    bridge = CompleteThroughMessages(config.models, known) if route.bridge else None
    speaks = config.upstreams[route.upstream].speaks
    if bridge is not None:
        used = nearest(speaks, bridge.version, bridge.living)
    else:
        used = nearest(speaks, spoken, endpoint)
    options = _options(route.snapshots, config.limits.event, strict=route.strict)
    return Translation(spoken, used, bridge, options)


@lru_cache(maxsize=64)
def _options(snapshots: Snapshots, event_limit: int, *, strict: bool) -> Options:
    return Options(strict=strict, newest_only=snapshots == "latest", event_limit=event_limit)


def translates(match: Match, method: str, translation: Translation) -> bool:
    """Whether a request is translated; others pass through, at most with another version."""
    return match.route.translate and method == "POST" and translation.concerns(match.endpoint)


def client_version(values: Sequence[bytes], when_missing: str, *, pass_unknown: bool) -> str | None:
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
    if version in dates():
        return version
    if version > max(dates()) and pass_unknown:
        return None
    known = ", ".join(dates())
    raise UnsupportedVersion(
        f'anthropic-version: "{version}" is not a version that is known here ({known})'
    )


def nearest(speaks: Sequence[str], client: str, endpoint: str) -> str:
    """The version among ``speaks`` that takes the least translation of ``endpoint``.

    Of several it is the one nearest in time to the ``client`` version, and rather a newer one.
    """
    if len(speaks) == 1:
        return speaks[0]
    known = dates()

    def cost(version: str) -> tuple[int, int, bool]:
        changes = sum(endpoint in step.kind.endpoints for step in path(client, version))
        return changes, abs(known.index(version) - known.index(client)), version < client

    return min(speaks, key=cost)


def _one_date(values: Sequence[bytes]) -> str:
    """A field repeated with one value says one thing; with two it says nothing."""
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
