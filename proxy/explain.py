"""What a request would become, without sending it: for people, before they switch over."""

from __future__ import annotations

import json
from dataclasses import dataclass

from .config import Config, Route
from .errors import NoRoute
from .negotiation import negotiate
from .routing import Match, Routes


@dataclass(frozen=True, slots=True)
class Explanation:
    """The request that would go upstream, and why it is not the client's.

    ``dropped`` maps parameters that the upstream does not get to the reason; ``notes`` tell what
    else was made different, and what in a prompt may not be what its author meant.
    """

    url: str
    version: str
    body: bytes
    dropped: dict[str, str]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        parts = [
            f"POST {self.url}",
            f"anthropic-version: {self.version}",
            "",
            json.dumps(json.loads(self.body), indent=2, ensure_ascii=False),
        ]
        if self.dropped:
            parts += ["", "dropped:", *(f"  {name}: {why}" for name, why in self.dropped.items())]
        if self.notes:
            parts += ["", "notes:", *(f"  {note}" for note in self.notes)]
        return "\n".join(parts)


def explain(
    config: Config, body: bytes, route: str | None = None, version: str = "2023-01-01"
) -> Explanation:
    """What ``config`` makes of a POST of ``body`` by a client of ``version``.

    ``route`` is a route's name; without one it is where ``/v1/complete`` goes. Raises ProxyError
    as the proxy would answer with it.
    """
    match = _match(config, route)
    translation = negotiate(config, match.route, match.endpoint, [version.encode()])
    base_url = config.upstreams[match.route.upstream].base_url
    if translation is None or not (match.route.translate and translation.concerns(match.endpoint)):
        used = version if translation is None else translation.upstream
        return Explanation(base_url + match.path, used, body, {}, ("the body passes through",))
    endpoint, sent = translation.request(match.endpoint, body)
    return Explanation(
        url=base_url + match.prefix + endpoint,
        version=translation.upstream,
        body=sent,
        dropped=dict(translation.dropped),
        notes=tuple(translation.notes),
    )


def _match(config: Config, name: str | None) -> Match:
    if name is None:
        return Routes(config.routes).find("POST", "/v1/complete")
    for route in config.routes:
        if route.name == name:
            return Match(route, _example(route))
    raise NoRoute(f"no route is named {name}")


def _example(route: Route) -> str:
    """A path that the route sends upstream; what its parameters stand for does not matter."""
    return route.upstream_path or route.path
