"""(method, raw path) -> route; the first that matches wins.

Paths are compared as they stand on the wire, never decoded or normalized: what a route allows must
be what the upstream is asked for. That servers may read a path in other ways is considered only to
refuse those that would slip past an earlier route. The one exception is how SDKs of 2023 join URLs:
their ``//v1/complete`` and ``/v1/v1/complete`` mean ``/v1/complete``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from ..config import Route
from ..core.errors import MethodNotAllowed, NoRoute
from .resemblance import Likeness, beginnings

SHOWN = 600
"""How much of a path an error message quotes, in characters."""

_JOINED_AS_IN_2023 = re.compile(r"/+(?:v1/+)*v1/complete")
_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")
_BETWEEN = re.compile(r"[^/{]+(?=\{)")
"""The literal text between two parameters of one segment."""
_ENCODED_AGAIN = re.compile("%(?:25|u00)+", re.IGNORECASE)
"""An encoded percent sign, encoded again any number of times; IIS and Jetty 9 know ``%u00``."""

_DOTS = re.compile(r"/\.{1,2}(?:[/;?#]|$)")
_UNCLEAR = re.compile(r"//|\\|;|%(?:2f|5c|3b|3f|23|25|u)", re.IGNORECASE)
"""What only some servers take for the end of a segment or of a path, or decode."""


class Match(NamedTuple):
    """The route of a request, and the ``path`` to ask its upstream for."""

    route: Route
    path: str
    prefix: str
    """What stands before the endpoint."""
    endpoint: str
    """The path as the API names it: without what stands before its ``/v1/``."""


Avoidable = Sequence[tuple[Route, Likeness]]
"""Earlier routes that a path might slip past by how it is written."""


class Routes:
    """The routes of a configuration, in order."""

    def __init__(self, routes: Iterable[Route]) -> None:
        routes = tuple(routes)
        self._routes = [
            (route, re.compile(_pattern(route.path)), _avoidable(route, routes[:place]))
            for place, route in enumerate(routes)
        ]
        """Each with the pattern of its paths, and earlier routes that these must not slip past."""
        self._literal = {route.path for route in routes}

    def find(self, method: str, path: str) -> Match:
        """The first route for the request; raises NoRoute or MethodNotAllowed.

        Whether or not the upstream resolves dot segments, the route and its path must be the same.
        """
        if _JOINED_AS_IN_2023.fullmatch(path) and path not in self._literal:
            path = "/v1/complete"
        match, avoidable = self._find(method, path)
        plain = path
        if _DOTS.search(_decoded(match.path)):
            plain = _resolved(path)
            meant, _ = self._find(method, plain)
            if meant.route is not match.route or meant.path != _resolved(match.path):
                raise NoRoute(f"no route for {path[:SHOWN]}")
        if avoidable and _may_be_any(avoidable, method, plain):
            raise NoRoute(f"no route for {path[:SHOWN]}")
        return match

    def _find(self, method: str, path: str) -> tuple[Match, Avoidable]:
        allowed: list[str] = []
        for route, pattern, avoidable in self._routes:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            if _takes(route, method):
                return _match(route, _upstream_path(route, path, found)), avoidable
            allowed += route.methods or ()
        if allowed:
            raise MethodNotAllowed(method, path[:SHOWN], tuple(dict.fromkeys(allowed)))
        raise NoRoute(f"no route for {path[:SHOWN]}")


def _avoidable(taken: Route, earlier: Iterable[Route]) -> Avoidable:
    """The earlier routes that a path of route ``taken`` must not slip past: a request of theirs
    would be served with the settings of ``taken``, its key for instance.

    A path that a route names literally slips past none. Whoever has both /v1/keys/{name} and
    /v1/Keys/{name} knows that their upstream tells them apart.
    """
    if "{" not in taken.path:
        return ()
    return tuple(
        (route, Likeness(route.path))
        for route in earlier
        if (route.upstream != taken.upstream or route.upstream_path is not None)
        and _folded(route.path) != _folded(taken.path)
    )


def _folded(path: str) -> str:
    return _PARAMETER.sub(r"{\2}", path).casefold().rstrip("/")


def _may_be_any(avoidable: Avoidable, method: str, path: str) -> bool:
    enough = max(like.enough for _, like in avoidable)
    for begins in beginnings(path, enough):
        if any(like.may_be(begins) for route, like in avoidable if _takes(route, method)):
            return True
    return False


def _takes(route: Route, method: str) -> bool:
    return route.methods is None or method in route.methods


def _match(route: Route, path: str) -> Match:
    start = max(path.rfind("/v1/"), 0)
    return Match(route, path, path[:start], path[start:])


def _decoded(path: str) -> str:
    """``path`` as it is after two servers in a row have each decoded it."""
    for _ in range(2 * ("%" in path)):
        path = unquote(_ENCODED_AGAIN.sub("%", path))
    return path.replace("\\", "/")


def _pattern(path: str) -> str:
    """A route's path as a regular expression; ``{x}`` is one segment, ``{x:path}`` the rest.

    The first of two parameters in one segment ends at the first occurrence of what stands between
    them. It does not backtrack to later ones: a client could make that take very long.
    """
    pattern, end = "", 0
    for parameter in _PARAMETER.finditer(path):
        pattern += re.escape(path[end : parameter.start()])
        end = parameter.end()
        between = _BETWEEN.match(path, end)
        if between:
            pattern += f"(?>(?P<{parameter[1]}>[^/]+?){re.escape(between[0])})"
            end = between.end()
        else:
            # A parameter that is a whole segment need not backtrack, which would take long.
            segment = "[^/]++" if path[end : end + 1] in ("", "/") else "[^/]+"
            pattern += f"(?P<{parameter[1]}>{'.*' if parameter[2] else segment})"
    return pattern + re.escape(path[end:])


def _resolved(path: str) -> str:
    """``path`` without dot segments (RFC 3986 §5.2.4); raises NoRoute.

    That is where servers may disagree on it, where it leads out of the root (a base URL may have a
    path before that), and where it leads to what is the proxy's own.
    """
    kept: list[str] = []
    outside = bool(_UNCLEAR.search(path))
    segments = re.sub("%2e", ".", path, flags=re.IGNORECASE).split("/")[1:]
    for segment in segments:
        if segment == "..":
            outside = outside or not kept
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    resolved = "/" + "/".join(kept)
    if outside or f"{resolved}/".startswith("/-/"):
        raise NoRoute(f"no route for {path[:SHOWN]}")
    return resolved


def _upstream_path(route: Route, asked: str, found: re.Match[str]) -> str:
    if route.upstream_path is None:
        return asked
    return _PARAMETER.sub(lambda parameter: found[parameter[1]], route.upstream_path)
