"""A configuration as text for people, without its secrets."""

from __future__ import annotations

from ..bridge.models import ModelTarget
from ..core.nudges import Nudge
from ..core.redaction import without_keys
from .values import Admin, Config, Route, Server, Upstream


def summary(config: Config) -> str:
    """The summary that ``check`` prints."""
    server = config.server
    return "\n".join(
        (
            f"listens on {server.host} port {server.port}{_asked_by(server)}",
            _admin(config.admin),
            *([f"keeps the ledger in {config.ledger.file}"] if config.ledger.file else []),
            f"a request without version: {config.version_when_missing}",
            f"a request of a newer version than all known: {config.unknown_versions}",
            "",
            "upstreams",
            *_table([_upstream_row(upstream) for upstream in config.upstreams.values()]),
            "",
            "routes",
            *_table([_route_row(route) for route in config.routes]),
            *(["", "models"] if config.models else []),
            *_table([_model_row(model) for model in config.models]),
        )
    )


def served(config: Config) -> list[str]:
    """A line for each upstream and each route, for the log at the start."""
    rows = [("upstream", *_upstream_row(upstream)) for upstream in config.upstreams.values()]
    rows += [("route", *_route_row(route)) for route in config.routes]
    return [" ".join(without_keys(word) for word in row if word) for row in rows]


def _asked_by(server: Server) -> str:
    if server.hosts is None:
        return ""
    return f", asked by {' and '.join(('addresses', 'private names', *server.hosts))} alone"


def _admin(admin: Admin) -> str:
    if not admin.enabled:
        return "answers nothing under /-/"
    where = "there, too" if admin.port is None else f"on {admin.host} port {admin.port} alone"
    names = f", also as {', '.join(admin.hosts)}" if admin.hosts else ""
    return f"answers under /-/ {where}{names}"


def _upstream_row(upstream: Upstream) -> tuple[str, ...]:
    form, key = upstream.credentials.form, upstream.credentials.key
    whose = "a key of its own" if key else "the client's key"
    changed = [f"sets {name}" for name, _ in upstream.set_headers]
    changed += [f"removes {name}" for name in upstream.remove_headers]
    return (
        upstream.name,
        upstream.base_url,
        f"speaks {', '.join(upstream.speaks)}",
        f"{whose}, {'as it is' if form == 'as_is' else f'as {form}'}",
        ", ".join(changed),
    )


def _route_row(route: Route) -> tuple[str, ...]:
    settings = (
        (f"bridge: {route.bridge}", route.bridge),
        ("strict", route.strict),
        ("not translated", not route.translate),
        (f"keepalive: {route.keepalive}", route.keepalive != "none"),
        (f"snapshots: {route.snapshots}", route.snapshots != "every"),
        (_nudge(route.nudge), route.nudge),
    )
    return (
        ", ".join(route.methods or ("any",)),
        route.path,
        f"-> {route.upstream}{'' if route.upstream_path is None else f' {route.upstream_path}'}",
        ", ".join(text for text, holds in settings if holds),
        f"({route.name})" if route.name != route.path else "",
    )


def _nudge(nudge: Nudge | None) -> str:
    """The announced dates, and the number of brown-outs."""
    if nudge is None:
        return ""
    dates = (("deprecated", nudge.deprecation), ("ends", nudge.sunset))
    parts = [f"{what} {moment:%Y-%m-%d}" for what, moment in dates if moment is not None]
    if nudge.brownouts:
        parts.append(f"brown-outs: {len(nudge.brownouts)}")
    return ", ".join(parts)


def _model_row(model: ModelTarget) -> tuple[str, ...]:
    cap = f"at most {model.max_tokens} tokens" if model.max_tokens else ""
    return (model.pattern, f"-> {model.to}", cap)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    rows = [tuple(map(without_keys, row)) for row in rows]  # one may stand where a name belongs
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [("  " + "  ".join(map(str.ljust, row, widths))).rstrip() for row in rows]
