"""(method, raw path) -> route; the first that matches wins.

Paths are compared as they stand on the wire, never decoded or cleaned: what a route allows must
be what the upstream is asked. How servers may read a path is only looked at to refuse those that
would slip past a route so. The one exception is how SDKs of 2023 join URLs: their
``//v1/complete`` and ``/v1/v1/complete`` mean ``/v1/complete``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple
from urllib.parse import unquote

from .config import Route
from .errors import MethodNotAllowed, NoRoute

SHOWN = 600
"""How much of a path is repeated to say what is wrong with it, in characters."""

_JOINED_AS_IN_2023 = re.compile(r"/+(?:v1/+)*v1/complete")
_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")
_BETWEEN = re.compile(r"[^/{]+(?=\{)")
"""What stands between two parameters of one segment."""

_ODD = re.compile(r"%|//|\\|;")
"""What has servers read a path in more than one way."""

_ENCODED_SLASH = re.compile("%2f", re.IGNORECASE)
_SLASH = r"(?:[/\\]|%2f|%5c)"
_DOTS = re.compile(rf"{_SLASH}(?:\.|%2e){{1,2}}(?:{_SLASH}|;|%3b|$)", re.IGNORECASE)
_UNCLEAR = re.compile(r"//|\\|%2f|%5c|;|%3b", re.IGNORECASE)
"""What some servers take for the end of a segment, as what follows a semicolon is no part of it to
those that read parameters there (RFC 3986 §3.3), and others do not."""


class Match(NamedTuple):
    """A route that takes a request, and the ``path`` to ask of its upstream."""

    route: Route
    path: str
    prefix: str
    """What stands before the endpoint."""
    endpoint: str
    """The path as the API names it: without what stands before its ``/v1/``."""


class Routes:
    """The routes of a configuration, in order."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = [
            (route, re.compile(_pattern(route.path)), re.compile(_pattern(route.path, _decoded)))
            for route in routes
        ]
        """Each with what its paths are as they stand, and decoded."""

    def find(self, method: str, path: str) -> Match:
        """The first route for the request; raises NoRoute or MethodNotAllowed.

        An upstream may resolve segments of dots, or not: what it is asked for must be the same.
        """
        match = self._find(method, path)
        plain = path
        if _DOTS.search(match.path):
            plain = _resolved(path)
            meant = self._find(method, plain)
            if meant.route is not match.route or meant.path != _resolved(match.path):
                raise NoRoute(f"no route for {path[:SHOWN]}")
        if _ODD.search(plain) and self._slips_past(match.route, method, plain):
            raise NoRoute(f"no route for {path[:SHOWN]}")
        return match

    def _slips_past(self, taken: Route, method: str, path: str) -> bool:
        """Whether an earlier route than the one taken would have it as some servers read it.

        It would be asked for there with what another route gives, a key, say. A later route is none
        that it avoids: a slash within {name} stays one segment.
        """
        return any(self._meant(method, each, taken) is not taken for each in _readings(path))

    def _meant(self, method: str, reading: str, taken: Route) -> Route:
        """The route that takes, or refuses, what a path reads as; ``taken``, if that is earlier."""
        having = [route for route, _, decoded in self._routes if decoded.fullmatch(reading)]
        taking = [route for route in having if _takes(route, method)]
        meant = next(iter(taking or having), taken)
        return next(route for route, *_ in self._routes if route in (meant, taken))

    def _find(self, method: str, path: str) -> Match:
        allowed: list[str] = []
        joined = "/v1/complete" if _JOINED_AS_IN_2023.fullmatch(path) else path
        for route, pattern, _ in self._routes:
            found = pattern.fullmatch(path)
            asked = path
            if found is None and joined != path:
                found = pattern.fullmatch(joined)
                asked = joined
            if found is None:
                continue
            if _takes(route, method):
                return _match(route, _upstream_path(route, asked, found))
            allowed += route.methods or ()
        if allowed:
            raise MethodNotAllowed(method, path[:SHOWN], tuple(dict.fromkeys(allowed)))
        raise NoRoute(f"no route for {path[:SHOWN]}")


def _takes(route: Route, method: str) -> bool:
    return route.methods is None or method in route.methods


def _match(route: Route, path: str) -> Match:
    start = max(path.rfind("/v1/"), 0)
    return Match(route, path, path[:start], path[start:])


def _decoded(path: str) -> str:
    return unquote(path, encoding="latin-1")


def _readings(path: str) -> set[str]:
    """What servers may take ``path`` for: decoded, perhaps but for slashes; perhaps without the
    parameters of segments (RFC 3986 §3.3), before that or after; perhaps with one slash in place of
    several.
    """
    readings = {path, re.sub(r";[^/]*", "", path)}
    readings |= {_ENCODED_SLASH.sub("%252f", each) for each in readings}
    readings = {_decoded(each) for each in readings}
    readings |= {re.sub(r";[^/]*", "", each) for each in readings}
    readings |= {re.sub(r"[/\\]+", "/", each) for each in readings}
    if any(map(_JOINED_AS_IN_2023.fullmatch, readings)):
        readings.add("/v1/complete")
    return readings


def _pattern(path: str, read: Callable[[str], str] = str) -> str:
    """A route's path as a regular expression; ``{x}`` is one segment, ``{x:path}`` the rest.

    What stands beside them is ``read`` first. A rest may have line ends once it is decoded.

    Of two within one segment the first ends where what stands between them comes first. No later
    place is tried, for whoever asks for a path could make that many.
    """
    pattern, end = "", 0
    for parameter in _PARAMETER.finditer(path):
        pattern += re.escape(read(path[end : parameter.start()]))
        end = parameter.end()
        between = _BETWEEN.match(path, end)
        if between:
            pattern += f"(?>(?P<{parameter[1]}>[^/]+?){re.escape(read(between[0]))})"
            end = between.end()
        else:
            # Behind a whole segment no shorter one is tried: it takes the time of all its letters.
            segment = "[^/]++" if path[end : end + 1] in ("", "/") else "[^/]+"
            pattern += f"(?P<{parameter[1]}>{'(?s:.*)' if parameter[2] else segment})"
    return pattern + re.escape(read(path[end:]))


def _resolved(path: str) -> str:
    """``path`` without segments of dots (RFC 3986 §5.2.4); raises NoRoute.

    That is where servers may not agree on it, as on what leads out of the root, before which there
    may be the path in a base URL; and what is the proxy's own is no upstream's.
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
