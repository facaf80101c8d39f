"""Reads the section ``routes``: which requests go to which upstream, and how."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import get_args

from ..core.fields import HTTP_NAME
from .notices import read_nudge
from .paths import filled, parameters, read_path, read_upstream_path
from .reach import Takes, reached
from .readers import flag, matching, one_of, several
from .values import BridgeName, Keepalive, Route, Snapshots
from .yamltext import Fields, Rule, Value, did_you_mean


def read_routes(value: Value, upstreams: Collection[str]) -> tuple[Route, ...]:
    """The routes in their order, each to one of the ``upstreams``; raises Wrong."""
    routes = value.each(lambda item: (item, _route(item, upstreams)), "must be a list of routes")
    kept = reached(routes, _takes_all_requests_of)
    names: dict[str, Value] = {}
    for place, route in kept:
        first = names.setdefault(route.name, place)
        if first is not place:
            rule = f"give one of them a name of its own; see line {first.line}"
            place.report(f"has the same name as {first.where}", rule)
    return tuple(route for _, route in kept)


def _route(value: Value, upstreams: Collection[str]) -> Route:
    with Fields(value) as field:
        path = field.require("path", read_path, "")
        route = Route(
            path=path,
            name=field.take("name", matching(r"[ -~]+", "must be a name, in ASCII"), path),
            methods=field.take("methods", several(_method, "must be a list of methods"), None),
            upstream=field.require("upstream", _upstream_name(upstreams), ""),
            upstream_path=field.take("upstream_path", read_upstream_path, None),
            translate=field.take("translate", flag, otherwise=True),
            bridge=field.take("bridge", one_of(get_args(BridgeName)), None),
            strict=field.take("strict", flag, otherwise=False),
            keepalive=field.take("keepalive", one_of(get_args(Keepalive)), "none"),
            snapshots=field.take("snapshots", one_of(get_args(Snapshots)), "every"),
            nudge=field.take("nudge", read_nudge, None),
        )
        if field.fine("path", "upstream_path"):
            _check_endpoint(field, route)
        _check_effects(field, route)
        return route


def _method(value: Value) -> str:
    rule = Rule("must be a method in upper case, such as POST", pattern="^[^a-z ]+$")
    text = value.text(rule)
    if not re.fullmatch(HTTP_NAME, text) or text != text.upper():
        raise value.wrong(f"is {value.shown}", rule)
    return text


def _upstream_name(upstreams: Collection[str]) -> Callable[[Value], str]:
    def read(value: Value) -> str:
        name = value.text("must be the name of an upstream")
        if upstreams and name not in upstreams:  # without any, that is reported already
            rule = did_you_mean(name, upstreams)
            raise value.wrong(f"is {value.shown}, which is no upstream", rule)
        return name

    return read


# Settings that are valid by themselves, but have no effect together.


def _check_endpoint(field: Fields, route: Route) -> None:
    endpoint = route.path if route.upstream_path is None else route.upstream_path
    known = parameters(route.path)
    for name in parameters(endpoint):
        if name not in known:
            what = f"has a parameter {{{name}}} that path has not"
            field.refuse("upstream_path", what, did_you_mean(name, known))
    if route.bridge and not endpoint.endswith("/v1/complete"):
        rule = "a bridge is for a path, or the upstream_path if any, that ends in /v1/complete"
        field.refuse("bridge", "has no effect", rule)


def _check_effects(field: Fields, route: Route) -> None:
    if not route.translate:
        cause, rule = "translate: false", "what is not translated stays as it is"
    elif route.methods is not None and "POST" not in route.methods and field.fine("methods"):
        cause, rule = "methods without POST", "only POST is translated"
    else:
        return
    for name in ("bridge", "strict", "keepalive", "snapshots", "nudge"):
        if field.has(name):
            field.refuse(name, f"has no effect with {cause}", rule)


def _takes_all_requests_of(earlier: Route) -> Takes[Route]:
    # "\1" stands for any segment, "\0//\0" for any rest: no literal of a path can match them.
    pattern = re.escape(filled(earlier.path, "\1", "\0"))
    takes = re.compile(pattern.replace("\1", "[^/]+").replace("\0", ".*")).fullmatch
    methods = None if earlier.methods is None else frozenset(earlier.methods)

    def takes_all_of(later: Route) -> bool:
        if methods is not None and (later.methods is None or not methods.issuperset(later.methods)):
            return False
        return bool(takes(filled(later.path, "\1", "\0//\0")))

    return takes_all_of
