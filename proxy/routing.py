"""(method, raw path) -> route; the first that matches wins.

Paths are compared as they stand on the wire, never decoded or cleaned: what a route allows must
be what the upstream is asked. How servers may read a path is only looked at to refuse those that
would slip past a route so. The one exception is how SDKs of 2023 join URLs: their
``//v1/complete`` and ``/v1/v1/complete`` mean ``/v1/complete``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import NamedTuple
from unicodedata import normalize

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

_ENCODED_AGAIN = re.compile("%(?:25|u00)+", re.IGNORECASE)
"""What each server decodes once that asks another; IIS and Jetty 9 have the second form, too."""

_ENCODED = re.compile("(?:%[0-9a-f]{2})+", re.IGNORECASE)
_ODD_SLASH = re.compile(r"\\|%(?:25|u00)*(?:2f|5c)", re.IGNORECASE)
_DOTS = re.compile(r"/\.{1,2}(?:[/;?#]|$)")
_UNCLEAR = re.compile(r"//|\\|;|%(?:2f|5c|3b|3f|23|25|u)", re.IGNORECASE)
"""What some servers take for the end of a segment or a path, or decode, and others do not."""

_PARAMETERS = re.compile(";[^/]*")
_END = re.compile("[;?#]")
_AUTHORITY = re.compile("^//+[^/]*")
"""What is a host, not a path, to those that resolve a target as a reference (RFC 3986 §4.2)."""

_ACCENTS = re.compile("[\u0300-\u036f]")


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
            (route, re.compile(_pattern(route.path)), re.compile(_lenient(route.path)))
            for route in routes
        ]
        """Each with what its paths are as they stand, and as servers may read them."""
        self._one_upstream = len({route.upstream for route, *_ in self._routes}) == 1

    def find(self, method: str, path: str) -> Match:
        """The first route for the request; raises NoRoute or MethodNotAllowed.

        An upstream may resolve segments of dots, or not: what it is asked for must be the same.
        """
        match = self._find(method, path)
        plain = path
        if _DOTS.search(_decoded(match.path)):
            plain = _resolved(path)
            meant = self._find(method, plain)
            if meant.route is not match.route or meant.path != _resolved(match.path):
                raise NoRoute(f"no route for {path[:SHOWN]}")
        if self._slips_past(match.route, method, plain):
            raise NoRoute(f"no route for {path[:SHOWN]}")
        return match

    def _slips_past(self, taken: Route, method: str, path: str) -> bool:
        """Whether an earlier route than the one taken would have it as some servers read it.

        It would be asked for there with what another route gives, a key, say. A later route is none
        that it avoids: a slash within {name} stays one segment. Nor does what a route names to the
        letter, nor, where the upstream is the same, what is written plainly.
        """
        odd = _ODD.search(path) is not None
        if "{" not in taken.path or (self._one_upstream and not odd):
            return False
        avoided = filter(None, (self._avoided(method, each, taken) for each in _readings(path)))
        return any(odd or route.upstream != taken.upstream for route in avoided)

    def _avoided(self, method: str, reading: str, taken: Route) -> Route | None:
        """The route before ``taken`` that takes, or refuses, what a path reads as.

        Whoever has both /v1/keys/ and /v1/Keys knows that they are different there.
        """
        having = [
            route
            for route, _, lenient in self._routes
            if lenient.fullmatch(reading) and (route is taken or not _alike(route, taken))
        ]
        taking = [route for route in having if _takes(route, method)]
        meant = next(iter(taking or having), taken)
        earlier = takewhile(lambda route: route is not taken, (route for route, *_ in self._routes))
        return meant if any(route is meant for route in earlier) else None

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


def _alike(one: Route, other: Route) -> bool:
    """Whether their paths differ by nothing but what lenient servers overlook."""
    return _folded(one.path).rstrip("/") == _folded(other.path).rstrip("/")


def _decoded(path: str) -> str:
    """``path`` decoded as by servers that stand behind one another, of which each decodes."""
    for _ in range(2 * ("%" in path)):
        path = _ENCODED.sub(_unquoted, _ENCODED_AGAIN.sub("%", path))
    return path.replace("\\", "/")


def _unquoted(encoded: re.Match[str]) -> str:
    """As the library has it, which takes ten times as long for each lone percent sign."""
    return bytes.fromhex(encoded[0].replace("%", "")).decode("utf-8", "replace")


def _folded(path: str) -> str:
    """``path`` decoded, with all letters alike that any server takes for one another."""
    decoded = _decoded(path)
    if not decoded.isascii():
        # Each for itself: to bring many accents of one letter in order takes the square of them.
        apart = "".join(normalize("NFKD", letter) for letter in decoded)
        decoded = _ACCENTS.sub("", apart)
    return decoded.casefold()


def _readings(path: str) -> set[str]:
    """What servers may take ``path`` for: decoded, perhaps but for odd slashes; perhaps without the
    parameters of segments (RFC 3986 §3.3), or all that follows one or what begins a query; without
    bytes that are no UTF-8; without a host at its beginning; with one slash in place of several.
    """
    readings = {_folded(each) for each in {path, _ODD_SLASH.sub("\0", path)}}
    readings |= {each.replace("\ufffd", "") for each in readings}
    readings |= {_PARAMETERS.sub("", each) for each in readings}
    readings |= {_END.split(each, maxsplit=1)[0] for each in readings}
    readings |= {_AUTHORITY.sub("", each) for each in readings}
    readings = {re.sub("/+", "/", each) for each in readings}
    if any(map(_JOINED_AS_IN_2023.fullmatch, readings)):
        readings.add("/v1/complete")
    return readings


def _lenient(path: str) -> str:
    """A route's path, folded, to servers that overlook a slash or a suffix at its end.

    It ends once: an earlier place in its last segment would have the same behind it, and whoever
    asks for a path could make that many.
    """
    return rf"(?>{_pattern(path, _folded)}(?=[. /]|\Z))(?:[. ][^/]*)?/*"


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
