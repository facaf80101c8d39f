"""A configuration is read once, checked as a whole, and never changes again.

Whatever is wrong in the file is told at once, each problem with its place and the rule that it
breaks. What the proxy would not do anything with is refused, because an operator who writes a
setting believes in it. Secrets stay wrapped from the moment they are read, and no message shows
one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import translate
from functools import lru_cache
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from . import hosts
from .errors import ConfigError, Problem
from .fields import HOP_BY_HOP
from .nudges import Nudge, Window
from .redaction import without_keys
from .versions import dates
from .versions.models import ModelTarget
from .yamltext import (
    LARGEST_FILE,
    MOST_NODES,
    Fields,
    Rule,
    Value,
    Wrong,
    compose,
    did_you_mean,
    flag,
    matching,
    moment,
    one_of,
    seconds,
    several,
    size,
    span,
    whole,
    whole_text,
)

T = TypeVar("T")

CredentialForm = Literal["as_is", "x-api-key", "bearer"]
UnknownVersions = Literal["pass", "reject"]
BridgeName = Literal["messages"]
Keepalive = Literal["none", "timestamp"]
Snapshots = Literal["every", "latest"]


class Secret:
    """Text that shows itself only to those who ask by name, with ``reveal``."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret('…')"

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._text))


@dataclass(frozen=True, slots=True)
class Server:
    """Where the proxy listens; port 0 is any free one.

    ``drain`` is how many seconds open exchanges may still take once it is told to stop.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    drain: float = 30.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long an upstream is waited for, in seconds.

    ``connect`` is for the connection, ``first_byte`` from the request sent to the first byte of
    the answer, ``idle`` between any two reads of the answer after that, ``total`` from the request
    sent to the end of the answer, a client that takes it slowly included. A client may take
    nothing for the longest ``idle`` of all upstreams.
    """

    connect: float = 5.0
    first_byte: float = 600.0
    idle: float = 120.0
    total: float = 3600.0
    """Well above what the longest answer takes. It ends what would drip for ever."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """How the API key goes to the upstream: in which form, and whose.

    ``key`` replaces the client's; None sends the client's own, in that form.
    """

    form: CredentialForm = "as_is"
    key: Secret | None = None


@dataclass(frozen=True, slots=True)
class Upstream:
    """An API to send to. Header names are in lower case, ``base_url`` ends without a slash."""

    name: str
    base_url: str
    speaks: tuple[str, ...]
    credentials: Credentials
    timeouts: Timeouts
    set_headers: tuple[tuple[str, Secret], ...]
    remove_headers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """Which requests go to which upstream, and what happens to them on the way.

    ``methods`` None takes all of them; ``upstream_path`` None keeps the path. ``bridge`` names
    the API that serves a retired endpoint, ``nudge`` what clients are told of the end of theirs.
    """

    name: str
    path: str
    methods: tuple[str, ...] | None
    upstream: str
    upstream_path: str | None = None
    translate: bool = True
    bridge: BridgeName | None = None
    strict: bool = False
    keepalive: Keepalive = "none"
    snapshots: Snapshots = "every"
    nudge: Nudge | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one exchange may take, in bytes, and how many there may be at once."""

    request_body: int = 32 << 20
    header_bytes: int = 64 << 10
    event: int = 8 << 20
    concurrent_exchanges: int = 1000


@dataclass(frozen=True, slots=True)
class Admin:
    """Whether the proxy answers under ``/-/``, and where.

    With ``port`` None it is where it answers everything else; otherwise there and nowhere else.
    ``hosts`` are names by which it is asked beside those that nobody can own, normal as in hosts.
    """

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int | None = None
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ledger:
    """Where the migration ledger is kept, None for memory alone, and how many entries it has."""

    file: str | None = None
    entries: int = 10_000


@dataclass(frozen=True, slots=True)
class Config:
    """One whole configuration. Of ``routes`` and ``models`` the first that matches counts."""

    server: Server
    version_when_missing: str
    unknown_versions: UnknownVersions
    upstreams: Mapping[str, Upstream]
    models: tuple[ModelTarget, ...]
    models_from_upstream: bool
    routes: tuple[Route, ...]
    limits: Limits
    admin: Admin
    ledger: Ledger


def load(path: str | os.PathLike[str]) -> Config:
    """Reads a file, with the variables of the process's environment."""
    file = os.fspath(path)
    try:
        with open(file, "rb", opener=_at_once) as opened:
            os.set_blocking(opened.fileno(), True)
            text = opened.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = Problem(1, 1, "file", f"cannot be read ({reason})", "it must be a readable file")
        raise ConfigError(file, [problem]) from error
    return parse(text, file, os.environ)


def _at_once(file: str, flags: int) -> int:
    """Open ``file``, but wait for nobody who might write to a FIFO: one who waits hears no stop."""
    return os.open(file, flags | os.O_NONBLOCK)


def parse(text: str | bytes, file: str, environ: Mapping[str, str]) -> Config:
    """Reads a configuration; ``file`` is its name in messages."""
    problems: list[Problem] = []
    try:
        return read(compose(text, environ, problems))
    except Wrong:
        raise ConfigError(file, problems) from None


# One function for each section of the file.


def read(root: Value) -> Config:
    """What a whole file comes to; raises Wrong, with all problems told to ``root``."""
    with Fields(root) as field:
        upstreams: dict[str, Upstream] = field.require("upstreams", _upstreams, {})
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
            models=field.take("models", _models, ()),
            models_from_upstream=field.take("models_from_upstream", flag, otherwise=False),
            routes=field.require("routes", lambda value: _routes(value, names), ()),
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


_host = matching(r"[!-~]+", "must be a host name")


def _server(value: Value) -> Server:
    usual = Server()
    with Fields(value) as field:
        return Server(
            host=field.take("host", _host, usual.host),
            port=field.take("port", whole(0, 65_535), usual.port),
            drain=field.take("drain", seconds(zero=True), usual.drain),
        )


def _upstreams(value: Value) -> dict[str, Upstream]:
    if value.is_mapping and not value.entries:
        raise value.wrong("is empty", "name at least one upstream")

    def read(key: Value, name: str, section: Value) -> Upstream:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            key.report("is no name for an upstream", "a name is letters, digits, dots, _ and -")
        return _upstream(section, name)

    return {upstream.name: upstream for upstream in value.lines(read)}


def _upstream(value: Value, name: str) -> Upstream:
    with Fields(value) as field:
        changes = field.take("headers", _headers, HeaderChanges())
        return Upstream(
            name=name,
            base_url=field.require("base_url", _base_url, ""),
            speaks=field.require("speaks", _speaks, ()),
            credentials=field.take("credentials", _credentials, Credentials()),
            timeouts=field.take("timeouts", _timeouts, Timeouts()),
            set_headers=changes.set,
            remove_headers=changes.remove,
        )


def _speaks(value: Value) -> tuple[str, ...]:
    return several(one_of(dates()), "must be a list of versions")(value)


def _timeouts(value: Value) -> Timeouts:
    usual = Timeouts()
    with Fields(value) as field:
        return Timeouts(
            connect=field.take("connect", seconds(), usual.connect),
            first_byte=field.take("first_byte", seconds(), usual.first_byte),
            idle=field.take("idle", seconds(), usual.idle),
            total=field.take("total", seconds(), usual.total),
        )


def _base_url(value: Value) -> str:
    rule = Rule(
        "must be http:// or https://, a host, and perhaps a port and a path",
        pattern="^[Hh][Tt][Tt][Pp][Ss]?://[^@?#]+$",
    )
    text = value.text(rule)
    if "@" in text:  # which is why it is not shown
        raise value.wrong("has a user name or password", "they belong under credentials")
    if "?" in text or "#" in text:
        raise value.wrong("has a query or a fragment", rule)
    if without_keys(text) != text:
        raise value.wrong("has what looks like a key", "they belong under credentials")
    match = re.fullmatch(
        r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(/[!-~]*)?",
        text,
        re.IGNORECASE | re.ASCII,
    )
    if not match or int(match[3] or 1) not in range(1, 65_536):
        raise value.wrong(f"is {value.shown}", rule)
    scheme, host, port, path = match.groups(default="")
    if not _is_host(host):
        raise value.wrong(f"is {value.shown}, whose host is no name and no address", rule)
    origin = f"{scheme}://{host}".lower() + (f":{port}" if port else "")
    return origin + path.rstrip("/")


def _is_host(host: str) -> bool:
    """Whether ``host`` can be connected to, by its looks (RFC 1123 §2.1, RFC 3986 §3.2.2)."""
    if host.startswith("["):
        with suppress(ValueError):
            return ip_address(host[1:-1]).version == 6  # noqa: PLR2004
        return False
    return all(re.fullmatch(r"[a-z0-9_-]{1,63}", label, re.IGNORECASE) for label in host.split("."))


_FORMS: tuple[CredentialForm, ...] = get_args(CredentialForm)


def _credentials(value: Value) -> Credentials:
    # Nothing written here is ever shown: a key may have gone astray.
    if value.is_mapping:
        for form in _FORMS[1:]:
            if list(value.entries) == [form]:
                return Credentials(form, _key(value.entries[form].value))
        rule = f"must hold {' or '.join(_FORMS[1:])}, only one of them and nothing else"
        raise value.wrong("is not one key in one form", rule)
    rule = Rule(
        f'must be {", ".join(_FORMS)}, or a form with a key: {{x-api-key: "${{NAME}}"}}',
        anyOf=[{"enum": list(_FORMS)}, *map(_form_with_key, _FORMS[1:])],
    )
    text = value.text(rule)
    for form in _FORMS:
        if text == form:
            return Credentials(form)
    raise value.wrong("is no form of credentials", rule)


def _form_with_key(form: CredentialForm) -> dict[str, Any]:
    """The mapping of one form of credentials to a key, for editors."""
    key = {"type": ["string", "number"]}
    return {
        "type": "object",
        "properties": {form: key},
        "required": [form],
        "additionalProperties": False,
    }


def _secret(pattern: str, words: str) -> Callable[[Value], Secret]:
    """Reads what no message may show, not even as it is written."""
    rule = Rule(words, pattern=whole_text(pattern))

    def read(value: Value) -> Secret:
        text = value.text(rule)
        if not re.fullmatch(pattern, text):
            raise value.wrong(f"{value.origin} cannot be sent", rule)
        return Secret(text)

    return read


_key = _secret(r"[!-~]+", "a key is visible ASCII, without blanks")
_header_value = _secret(
    r"[!-~]([ \t!-~]*[!-~])?", "a field's value is visible ASCII; blanks only within"
)


class HeaderChanges(NamedTuple):
    """What an upstream's section does to header fields."""

    set: tuple[tuple[str, Secret], ...] = ()
    remove: tuple[str, ...] = ()


def _headers(value: Value) -> HeaderChanges:
    _refuse_text(value)
    with Fields(value) as field:
        changes = HeaderChanges(
            set=field.take("set", _headers_set, ()),
            remove=field.take("remove", several(_header_removed, "must be a list of names"), ()),
        )
        for name in {name for name, _ in changes.set} & set(changes.remove):
            field.refuse("remove", f"removes {name}, which is set", "a field is set or removed")
        return changes


def _refuse_text(value: Value) -> None:
    """Refuse what is no mapping without showing it: it may be a whole field, as in HTTP."""
    if value.is_scalar:
        raise value.wrong("is text", "must be a mapping of keys to values")


def _headers_set(value: Value) -> tuple[tuple[str, Secret], ...]:
    _refuse_text(value)
    fields: dict[str, Secret] = {}

    def read(key: Value, written: str, value: Value) -> None:
        name = _header_name(key, written)
        if name in fields:
            raise key.wrong("is set twice", "field names are the same in upper and lower case")
        fields[name] = _header_value(value)

    value.lines(read)
    return tuple(fields.items())


def _header_removed(value: Value) -> str:
    return _header_name(value, value.text("must be the name of a header field"))


_OWN_FIELDS = {
    **dict.fromkeys(("authorization", "x-api-key"), "credentials have a key of their own"),
    **dict.fromkeys(
        ("content-encoding", "content-length", "expect", "host", "via"),
        "the proxy writes it, true to what it sends",
    ),
    **dict.fromkeys((name.decode() for name in HOP_BY_HOP), "it ends at each hop, so at the proxy"),
    "anthropic-version": "the version is chosen from what the upstream speaks",
}


def _header_name(place: Value, written: str) -> str:
    name = written.lower()
    if not re.fullmatch(_HTTP_NAME, name):
        raise place.wrong("is no name of a field", "a name is letters, digits and !#$%&'*+-.^_`|~")
    if name in _OWN_FIELDS:
        raise place.wrong(f"is {place.shown}, which cannot be changed here", _OWN_FIELDS[name])
    return name


def _models(value: Value) -> tuple[ModelTarget, ...]:
    models = value.lines(lambda key, pattern, entry: (key, _model(entry, pattern)))
    return tuple(model for _, model in _reached(models, _takes_all_models_of))


def _model(value: Value, pattern: str) -> ModelTarget:
    if not value.is_mapping:
        return ModelTarget(pattern, _model_name(value), None)
    with Fields(value) as field:
        return ModelTarget(
            pattern=pattern,
            to=field.require("to", _model_name, ""),
            max_tokens=field.take("max_tokens", whole(1, 10_000_000), None),
        )


_model_name = matching(r"[!-~]+", "must be the name of a model")


def _routes(value: Value, upstreams: Collection[str]) -> tuple[Route, ...]:
    routes = value.each(lambda item: (item, _route(item, upstreams)), "must be a list of routes")
    reached = _reached(routes, _takes_all_requests_of)
    names: dict[str, Value] = {}
    for place, route in reached:
        first = names.setdefault(route.name, place)
        if first is not place:
            rule = f"give one of them a name of its own; see line {first.line}"
            place.report(f"has the same name as {first.where}", rule)
    return tuple(route for _, route in reached)


def _route(value: Value, upstreams: Collection[str]) -> Route:
    with Fields(value) as field:
        path = field.require("path", _path, "")
        route = Route(
            path=path,
            name=field.take("name", matching(r"[ -~]+", "must be a name, in ASCII"), path),
            methods=field.take("methods", several(_method, "must be a list of methods"), None),
            upstream=field.require("upstream", _upstream_name(upstreams), ""),
            upstream_path=field.take("upstream_path", _upstream_path, None),
            translate=field.take("translate", flag, otherwise=True),
            bridge=field.take("bridge", one_of(get_args(BridgeName)), None),
            strict=field.take("strict", flag, otherwise=False),
            keepalive=field.take("keepalive", one_of(get_args(Keepalive)), "none"),
            snapshots=field.take("snapshots", one_of(get_args(Snapshots)), "every"),
            nudge=field.take("nudge", _nudge, None),
        )
        if field.fine("path", "upstream_path"):
            _check_endpoint(field, route)
        _check_effects(field, route)
        return route


def _nudge(value: Value) -> Nudge:
    with Fields(value) as field:
        windows: list[tuple[Value, Window]] = field.take("brownouts", _windows, [])
        nudge = Nudge(
            deprecation=field.take("deprecation", moment, None),
            sunset=field.take("sunset", moment, None),
            link=field.take("link", _link, None),
            brownouts=tuple(window for _, window in windows),
        )
        if not field.has("deprecation") and not field.has("sunset"):
            value.report("tells no date", "write deprecation, sunset or both")
        if nudge.deprecation and nudge.sunset and nudge.sunset < nudge.deprecation:
            rule = "the sunset is not before the deprecation (RFC 9745 §4)"
            field.refuse("sunset", "is before deprecation", rule)
        for name in ("sunset", "link"):
            if field.has("brownouts") and not field.has(name):
                rule = "who is refused is told when it ends, and where to read of it"
                field.refuse("brownouts", f"stands without {name}", rule)
        for place, window in windows:
            if nudge.sunset and window.start >= nudge.sunset:
                place.report("is never open", "a brown-out begins before the sunset")
        return nudge


_link = matching(
    r"https?://[!#-;=?-~]+", "must be a URL of http or https, in ASCII, without blanks, quotes, < >"
)


def _windows(value: Value) -> list[tuple[Value, Window]]:
    return value.each(lambda item: (item, _window(item)), "must be a list of brown-outs")


def _window(value: Value) -> Window:
    with Fields(value) as field:
        window = Window(
            start=field.require("from", moment, datetime.now(UTC)),
            length=field.require("for", span, timedelta()),
            every=field.take("every", span, None),
            percent=field.take("percent", whole(1, 100), 100),
        )
        if field.fine("for", "every") and window.every and window.every <= window.length:
            field.refuse("every", "is not longer than for", "one ends before the next begins")
        return window


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
            hosts=field.take("hosts", several(_own_name, "must be a list of names"), usual.hosts),
        )
        for name in ("host", "port", "hosts"):
            if field.has(name) and not admin.enabled:
                rule = "leave it out, or enable what would answer there"
                field.refuse(name, "has no effect with enabled: false", rule)
        if field.has("host") and not field.has("port"):
            field.refuse("host", "has no effect without port", "an address is both of them")
        return admin


_host_name = matching(
    hosts.NAME, "must be a name in ASCII such as proxy.example.com, without scheme, port, path or *"
)


def _own_name(value: Value) -> str:
    name = hosts.normal(_host_name(value))
    if hosts.belongs_to_nobody(name):
        rule = "leave it out; addresses and names that nobody can register are answered anyway"
        raise value.wrong(f"is {value.shown}, which has no effect", rule)
    return name


_file = matching(r"[^\x00-\x1f]+", "must be the path of a file, without control characters")


def _ledger(value: Value) -> Ledger:
    usual = Ledger()
    with Fields(value) as field:
        return Ledger(
            file=field.take("file", _file, usual.file),
            entries=field.take("entries", whole(100, 100_000), usual.entries),
        )


# Paths.

_HTTP_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # RFC 9110 §5.6.2
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}")


def _path(value: Value) -> str:
    text = _template(value)
    if f"{text}/".startswith("/-/"):
        raise value.wrong(f"is {value.shown}", "what is under /-/ is the proxy's own")
    return text


def _upstream_path(value: Value) -> str:
    text = _template(value)
    if ":path}" in text:
        raise value.wrong(f"is {value.shown}", "in an upstream_path a parameter is only {name}")
    return text


def _template(value: Value) -> str:
    """A path that may have parameters: /v1/complete, /v1/models/{name}, /{rest:path}."""
    text = value.text(Rule("must be a path such as /v1/complete", pattern="^/[^?# ]*$"))
    names = _parameters(text)
    rules = {
        "a path starts with /": text.startswith("/"),
        "a path is ASCII without blanks, ? or #; braces are for {name} and {name:path}": (
            re.fullmatch(r"[!-~]+", text) and not re.search(r"[{}?#]", _PARAMETER.sub("", text))
        ),
        "{name:path} takes all that follows, so it comes last": not re.search(r":path\}.", text),
        "between two parameters stands something that tells where one ends": "}{" not in text,
        "each parameter has a name of its own": len(set(names)) == len(names),
    }
    for rule, kept in rules.items():
        if not kept:
            raise value.wrong(f"is {value.shown}", rule)
    return text


def _parameters(path: str) -> list[str]:
    return [match[1] for match in _PARAMETER.finditer(path)]


def _method(value: Value) -> str:
    rule = Rule("must be a method in upper case, such as POST", pattern="^[^a-z ]+$")
    text = value.text(rule)
    if not re.fullmatch(_HTTP_NAME, text) or text != text.upper():
        raise value.wrong(f"is {value.shown}", rule)
    return text


def _upstream_name(upstreams: Collection[str]) -> Callable[[Value], str]:
    def read(value: Value) -> str:
        name = value.text("must be the name of an upstream")
        if upstreams and name not in upstreams:  # without any, that has been told
            rule = did_you_mean(name, upstreams)
            raise value.wrong(f"is {value.shown}, which is no upstream", rule)
        return name

    return read


# What is right by itself and still without effect.


def _check_endpoint(field: Fields, route: Route) -> None:
    endpoint = route.path if route.upstream_path is None else route.upstream_path
    known = _parameters(route.path)
    for name in _parameters(endpoint):
        if name not in known:
            what = f"has a parameter {{{name}}} that path has not"
            field.refuse("upstream_path", what, did_you_mean(name, known))
    if route.bridge and not endpoint.endswith("/v1/complete"):
        rule = "a bridge is for /v1/complete: path, or upstream_path where there is one, ends in it"
        field.refuse("bridge", "has no effect", rule)


def _check_effects(field: Fields, route: Route) -> None:
    if not route.translate:
        for name in ("bridge", "strict", "keepalive", "snapshots", "nudge"):
            if field.has(name):
                rule = "what is not translated stays as it is"
                field.refuse(name, "has no effect with translate: false", rule)


def _refuse_unused(field: Fields, routes: tuple[Route, ...]) -> None:
    used = {route.upstream for route in routes}
    for name, (key, _) in field.entries("upstreams").items():
        if name not in used:
            key.report("has no effect", "no route names it; write one, or leave it out")
    for name in ("models", "models_from_upstream"):
        if field.has(name) and not any(route.bridge for route in routes):
            rule = "only a bridge looks models up, and no route has one"
            field.refuse(name, "has no effect", rule)


Takes = Callable[[T], bool]
"""Whether the first match would be another one already, whatever it is asked for."""


def _reached(
    read: list[tuple[Value, T]], takes_all_of: Callable[[T], Takes[T]]
) -> list[tuple[Value, T]]:
    """Those of a list where the first match counts that anything is left for.

    Each is compared with all before it, so what can be prepared for that is prepared once.
    """
    reached: list[tuple[Value, T]] = []
    takers: list[tuple[Value, Takes[T]]] = []
    for place, later in read:
        if first := next((at for at, takes in takers if takes(later)), None):
            rule = f"{first.where} on line {first.line} takes all that it would"
            place.report("is never reached", rule)
        else:
            reached.append((place, later))
            takers.append((place, takes_all_of(later)))
    return reached


def _takes_all_requests_of(earlier: Route) -> Takes[Route]:
    # "\1" stands for any segment, "\0//\0" for any rest: no literal of a path can match them.
    pattern = re.escape(_filled(earlier.path, "\1", "\0"))
    takes = re.compile(pattern.replace("\1", "[^/]+").replace("\0", ".*")).fullmatch
    methods = None if earlier.methods is None else frozenset(earlier.methods)

    def takes_all_of(later: Route) -> bool:
        if methods is not None and (later.methods is None or not methods.issuperset(later.methods)):
            return False
        return bool(takes(_filled(later.path, "\1", "\0//\0")))

    return takes_all_of


@lru_cache(maxsize=MOST_NODES)
def _filled(path: str, segment: str, rest: str) -> str:
    return _PARAMETER.sub(lambda match: rest if match[2] else segment, path)


def _takes_all_models_of(earlier: ModelTarget) -> Takes[ModelTarget]:
    if "[" in earlier.pattern:  # not worth the set arithmetic
        return lambda _: False  # this way a mistake goes untold, never a lie
    literal = re.split(r"[*?[]", earlier.pattern, maxsplit=1)[0]
    takes = re.compile(translate(earlier.pattern)).match

    def takes_all_of(later: ModelTarget) -> bool:
        if not later.pattern.startswith(literal):  # which settles most, and quickly
            return False
        # The shortest and a very long name: a glob that takes both takes whatever is between.
        sample = re.sub(r"\[.+?\]|\?", "\0", later.pattern)
        fills = ("", "\0" * (len(earlier.pattern) + 1))
        return all(takes(sample.replace("*", fill)) for fill in fills)

    return takes_all_of
