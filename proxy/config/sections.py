"""Reads the whole file, and its small sections."""

from __future__ import annotations

import os
from types import MappingProxyType
from typing import get_args

from ..core import hosts
from ..versions import dates
from .models import read_models
from .readers import flag, matching, one_of, seconds, several, size, whole
from .routes import read_routes
from .upstreams import read_upstreams
from .values import Admin, Config, Ledger, Limits, Route, Server, UnknownVersions, Upstream
from .yamltext import Fields, Value


def read(root: Value) -> Config:
    """The configuration in a file; raises Wrong, after all problems are reported."""
    with Fields(root) as field:
        upstreams: dict[str, Upstream] = field.require("upstreams", read_upstreams, {})
        names = field.entries("upstreams").keys()
        config = Config(
            server=field.take("server", _server, Server()),
            version_when_missing=field.take(
                "version_when_missing", one_of([*dates(), "reject"]), dates()[0]
            ),
            unknown_versions=field.take(
                "unknown_versions", one_of(get_args(UnknownVersions)), "pass"
            ),
            upstreams=MappingProxyType(upstreams),
            models=field.take("models", read_models, ()),
            models_from_upstream=field.take("models_from_upstream", flag, otherwise=False),
            routes=field.require("routes", lambda value: read_routes(value, names), ()),
            limits=field.take("limits", _limits, Limits()),
            admin=field.take("admin", _admin, Admin()),
            ledger=field.take("ledger", _ledger, Ledger()),
        )
        if field.fine("routes"):
            _refuse_unused(field, config.routes)
        server, admin = config.server, config.admin
        if admin.port and (admin.host, admin.port) == (server.host, server.port):
            rule = "leave host and port out to have both on one port"
            field.refuse("admin", "has the address of server", rule)
        return config


def _refuse_unused(field: Fields, routes: tuple[Route, ...]) -> None:
    used = {route.upstream for route in routes}
    for name, (key, _) in field.entries("upstreams").items():
        if name not in used:
            key.report("has no effect", "no route names it; write one, or leave it out")
    for name in ("models", "models_from_upstream"):
        if field.has(name) and not any(route.bridge for route in routes):
            rule = "models are for routes with a bridge, and there is none"
            field.refuse(name, "has no effect", rule)


_host = matching(
    r"[A-Za-z0-9._-]+|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(%[!-~]+)?",
    "must be a host name, or an address without port and brackets",
)

_NAMES = "must be a list of names"


def _server(value: Value) -> Server:
    usual = Server()
    with Fields(value) as field:
        return Server(
            host=field.take("host", _host, usual.host),
            port=field.take("port", whole(0, 65_535), usual.port),
            drain=field.take("drain", seconds(zero=True), usual.drain),
            hosts=field.take("hosts", several(_own_name, _NAMES, least=0), usual.hosts),
        )


def _limits(value: Value) -> Limits:
    usual = Limits()
    with Fields(value) as field:
        return Limits(
            request_body=field.take("request_body", size, usual.request_body),
            header_bytes=field.take("header_bytes", size, usual.header_bytes),
            event=field.take("event", size, usual.event),
            concurrent_exchanges=field.take(
                "concurrent_exchanges", whole(1, 1_000_000), usual.concurrent_exchanges
            ),
        )


def _admin(value: Value) -> Admin:
    usual = Admin()
    with Fields(value) as field:
        admin = Admin(
            enabled=field.take("enabled", flag, usual.enabled),
            host=field.take("host", _host, usual.host),
            port=field.take("port", whole(0, 65_535), usual.port),
            hosts=field.take("hosts", several(_own_name, _NAMES), usual.hosts),
        )
        for name in ("host", "port", "hosts"):
            if field.has(name) and not admin.enabled:
                rule = "leave it out, or write enabled: true"
                field.refuse(name, "has no effect with enabled: false", rule)
        if field.has("host") and not field.has("port"):
            field.refuse("host", "has no effect without port", "write port, too, or leave it out")
        return admin


_host_name = matching(
    hosts.NAME, "must be a name in ASCII such as proxy.example.com, without scheme, port, path or *"
)


def _own_name(value: Value) -> str:
    name = hosts.normal(_host_name(value))
    if hosts.is_unregistrable(name):
        rule = "leave it out: addresses and private names are answered anyway"
        raise value.wrong(f"is {value.shown}, which has no effect", rule)
    return name


_path = matching(r"[^\x00-\x1f]+", "must be the path of a file, without control characters")


def _file(value: Value) -> str:
    path = _path(value)
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise value.wrong(f"is {value.shown}", "a path is text without lone surrogates") from None
    return path


def _ledger(value: Value) -> Ledger:
    usual = Ledger()
    with Fields(value) as field:
        return Ledger(
            file=field.take("file", _file, usual.file),
            entries=field.take("entries", whole(100, 100_000), usual.entries),
        )
