"""Shows what the proxy would send for a request, without sending it: for people who try it out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from types import MappingProxyType

from ..bridge.models import Learned
from ..config import Config
from ..core import jsontext
from ..core.errors import InvalidRequest, NoRoute
from .negotiation import negotiate, translates
from .routing import Match, Routes

_PATH = re.compile(r'/(?:[!-"$&->@-~]|%(?![01][0-9a-f]|7f))*', re.IGNORECASE)
"""A path that guard lets in: without a fragment, and without an encoded control character."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The request that would go to the upstream, and why it differs from the client's."""

    url: str
    version: str
    body: bytes
    dropped: dict[str, str]
    """The parameters that the upstream does not get, each with the reason."""
    notes: tuple[str, ...]
    """What else was changed, and what in a prompt may not be what its author meant."""

    def __str__(self) -> str:
        parts = [f"POST {self.url}", f"anthropic-version: {self.version}", "", _readable(self.body)]
        if self.dropped:
            parts += ["", "dropped:", *(f"  {name}: {why}" for name, why in self.dropped.items())]
        if self.notes:
            parts += ["", "notes:", *(f"  {note}" for note in self.notes)]
        return "\n".join(parts)


def explain(
    config: Config,
    path: str,
    version: str | None,
    body: bytes,
    *,
    route: str | None = None,
    learned: Learned = MappingProxyType({}),
) -> Explanation:
    """What ``config`` makes of a POST of ``body`` to ``path`` by a client of ``version``.

    A client whose ``version`` is None names none. ``route`` restricts the search to the routes of
    that name; ``learned`` is what upstreams said about their models. Raises the ProxyError that the
    proxy would answer with.
    """
    check_path(path)
    match = _match(config, route, path)
    versions = [] if version is None else [version.encode(errors="surrogateescape")]
    translation = negotiate(config, match.route, match.endpoint, versions, learned)
    base_url = config.upstreams[match.route.upstream].base_url
    if translation is None or not translates(match, "POST", translation):
        used = str(version) if translation is None else translation.upstream
        return Explanation(base_url + match.path, used, body, {}, ("the body passes through",))
    endpoint, sent = translation.request(match.endpoint, body)
    return Explanation(
        url=base_url + match.prefix + endpoint,
        version=translation.upstream,
        body=sent,
        dropped=dict(translation.dropped),
        notes=tuple(translation.notes),
    )


def check_path(path: str) -> None:
    """Raise NoRoute or InvalidRequest unless ``path`` is that of a request, without a query."""
    if f"{path}/".startswith("/-/"):
        raise NoRoute("paths under /-/ are the proxy's own")
    if not _PATH.fullmatch(path):
        raise InvalidRequest("path: must be the path of a request, such as /v1/complete")


def _match(config: Config, name: str | None, path: str) -> Match:
    routes = [route for route in config.routes if name in (None, route.name)]
    if not routes:
        raise NoRoute(f"no route is named {name}")
    return Routes(routes).find("POST", path)


def _readable(body: bytes) -> str:
    """A body as indented JSON, or as it is if it is not JSON."""
    try:
        value = jsontext.loads_exactly(body, all_finite=True)
        text = json.dumps(value, indent=2, ensure_ascii=False)
    except jsontext.NotJSON:
        text = body.decode("utf-8", "replace")
    return text.encode("utf-8", "backslashreplace").decode()
