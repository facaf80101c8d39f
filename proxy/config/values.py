"""A configuration as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..bridge.models import ModelTarget
from ..core.nudges import Nudge
from ..core.sse import LARGEST_EVENT

CredentialForm = Literal["as_is", "x-api-key", "bearer"]
UnknownVersions = Literal["pass", "reject"]
BridgeName = Literal["messages"]
Keepalive = Literal["none", "timestamp"]
Snapshots = Literal["every", "latest"]


class Secret:
    """Text that only ``reveal`` shows, and no message, log or traceback."""

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

    ``drain`` is how many seconds open exchanges get to finish after SIGTERM. ``hosts`` are names to
    answer to besides addresses and private names, as core.hosts.normal spells them; None stands for
    all names.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    drain: float = 30.0
    hosts: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long an upstream is waited for, in seconds.

    ``connect`` is for the connection, ``first_byte`` from the request sent to the first byte of
    the answer, ``idle`` between two reads of the answer after that, ``total`` from the request sent
    to the end of the answer, even if it is the client that is slow. A client may stop reading for
    the longest ``idle`` of all upstreams.
    """

    connect: float = 5.0
    first_byte: float = 600.0
    idle: float = 120.0
    total: float = 3600.0
    """Well above what the longest answer takes: it is for answers that never end."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """In which header field the API key is sent; ``key`` None sends the client's."""

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
    the API that serves a retired endpoint, ``nudge`` announces the end of the client's version.
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
    """The largest sizes, in bytes, and the most exchanges at once."""

    request_body: int = 32 << 20
    header_bytes: int = 64 << 10
    event: int = LARGEST_EVENT
    concurrent_exchanges: int = 1000


@dataclass(frozen=True, slots=True)
class Admin:
    """Whether the proxy answers under ``/-/``, and where.

    With ``port`` None that is where clients are answered; otherwise only there. ``hosts`` are names
    to answer to besides addresses and private names, as core.hosts.normal spells them.
    """

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int | None = None
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ledger:
    """The file of the migration ledger, None for memory only, and the most entries."""

    file: str | None = None
    entries: int = 10_000


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration. Of ``routes`` and ``models`` the first match wins."""

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
