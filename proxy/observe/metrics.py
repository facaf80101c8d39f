"""What has happened and what is open, as metrics for Prometheus.

Every set of label values is bounded: routes, upstreams and versions come from the configuration,
errors and dropped parameters from our own code, and of what clients call themselves only the first
few are told apart. No label holds a model, a path, a key or any other text of a request.

Names and units are as https://prometheus.io/docs/practices/naming/ asks for.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.metrics_core import InfoMetricFamily, Metric

from ..core.errors import STATUS_OF_TYPE, InvalidVersion, UnsupportedVersion, VersionRequired
from ..core.nudges import Brownout
from ..versions import droppable
from . import sharedmetrics
from .record import Record

__all__ = ["CONTENT_TYPE", "Metrics"]

PREFIX = "anthropic_version_proxy"
"""What all names begin with: the name of the program, which no other exporter has."""

SECONDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    *(10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
"""The bounds of the buckets of durations: from a local refusal to the longest usual timeout."""

KINDS = 64
"""How many kinds of clients are told apart in one process; those that come later are ``other``."""

COMBINATIONS = 1000
"""How many combinations of labels exchanges may have before every further kind is ``other``."""

OTHER = "other"

disable_created_metrics()  # the creation time of each series would double the page


class _Bound(NamedTuple):
    """The metrics of the exchanges of one route that are streams, or of those that are not."""

    duration: Histogram
    first_byte: Histogram
    request_bytes: Counter
    response_bytes: Counter
    upstream_bytes: Counter
    events_received: Counter
    events_sent: Counter


class Metrics:
    """The metrics of this process, and the page of them; with ``shared``, of all processes.

    ``worker`` names this process among several; None says that it is the only one. Several without
    a ``shared`` folder have no page: Prometheus would take the counts of whichever answers for one
    history.

    With ``shared`` a process can have only one of these; see sharedmetrics.
    """

    def __init__(self, shared: Path | None = None, worker: str | None = None) -> None:
        self._pages: CollectorRegistry | None = CollectorRegistry()
        """What the page is made from."""
        self._own: CollectorRegistry | None = self._pages
        """Holds the metrics of this process, where they are not in files."""
        self._pages.register(_Build())
        if worker is None:
            sharedmetrics.keep_in_memory()
        elif shared is not None and sharedmetrics.exist(shared):
            self._own = None
            sharedmetrics.collect(self._pages, shared)
            sharedmetrics.keep_in_files(shared, worker)
        else:
            sharedmetrics.keep_in_memory()
            self._pages = self._own = None
        self._kinds: set[str] = set()
        self._droppable = droppable()
        self._exchange_of: dict[tuple[object, ...], Counter] = {}
        self._bound_of: dict[tuple[str, bool], _Bound] = {}
        self._upstreams: set[str] = set()
        self._make_counters()
        self._make_histograms()
        self._make_gauges()

    def _make_counters(self) -> None:
        self._exchanges = self._counter(
            "exchanges",
            "Exchanges that are over, by who called, what was spoken, and how they ended.",
            ("route", "client_version", "upstream_version", "status", "client", "ended"),
        )
        self._errors = self._counter(
            "errors",
            "Exchanges that ended with an error of the proxy's or of the upstream's, "
            "by its class in the code and its type in the API.",
            ("route", "error", "type"),
        )
        self._dropped = self._counter(
            "dropped_parameters",
            "Parameters of requests that were left out because the upstream takes them no longer.",
            ("route", "parameter"),
        )
        by_route = ("route",)
        self._request_bytes = self._counter(
            "request_bytes", "Bytes of request bodies received from clients.", by_route
        )
        self._response_bytes = self._counter(
            "response_bytes", "Bytes of response bodies sent to clients.", by_route
        )
        self._upstream_bytes = self._counter(
            "upstream_response_bytes", "Bytes of response bodies received upstream.", by_route
        )
        self._events_received = self._counter(
            "events_received", "Events of translated streams received upstream.", by_route
        )
        self._events_sent = self._counter(
            "events_sent", "Events of translated streams made for clients.", by_route
        )
        self._reloads = self._counter(
            "config_reloads", "Times the configuration was read anew.", ("result",)
        )
        for result in ("ok", "failed"):
            self._reloads.labels(result)

    def _make_histograms(self) -> None:
        self._duration = self._histogram(
            "exchange_duration_seconds",
            "From the whole head of a request to the end of its exchange.",
            ("route", "stream"),
        )
        self._first_byte = self._histogram(
            "stream_first_byte_seconds",
            "From the whole head of a request to the first byte of the stream that answers it, "
            "which begins with its first event where it is translated.",
            ("route",),
        )

    def _make_gauges(self) -> None:
        self._open = self._gauge("open_exchanges", "Exchanges under way.")
        self._streams = self._gauge("open_streams", "Those of them that are streams.")
        self._connections = self._gauge(
            "upstream_connections",
            "Connections to upstreams, used by an exchange or free for the next.",
            ("upstream", "state"),
        )

    def _counter(self, name: str, about: str, labels: Iterable[str]) -> Counter:
        return Counter(f"{PREFIX}_{name}", about, labels, registry=self._own)

    def _histogram(self, name: str, about: str, labels: Iterable[str]) -> Histogram:
        name = f"{PREFIX}_{name}"
        return Histogram(name, about, labels, buckets=SECONDS, registry=self._own)

    def _gauge(self, name: str, about: str, labels: Iterable[str] = ()) -> Gauge:
        return Gauge(
            f"{PREFIX}_{name}",
            about,
            labels,
            registry=self._own,
            multiprocess_mode="livesum",
        )

    # Written.

    def count(self, record: Record) -> None:
        """Count an exchange that is over."""
        key = (
            record.route,
            record.client_version,
            record.upstream_version,
            record.status // 100,
            record.client,
            record.ended,
        )
        (self._exchange_of.get(key) or self._exchange(key)).inc()
        bound = self._bound_of.get((record.route, record.streams)) or self._bind(record)
        bound.duration.observe(record.seconds)
        if record.streams and record.first_byte is not None:
            bound.first_byte.observe(record.first_byte - record.began)
        if record.bytes_received:
            bound.request_bytes.inc(record.bytes_received)
        if record.bytes_sent:
            bound.response_bytes.inc(record.bytes_sent)
        if record.upstream_bytes:
            bound.upstream_bytes.inc(record.upstream_bytes)
        if record.events_received:
            bound.events_received.inc(record.events_received)
        if record.events_sent:
            bound.events_sent.inc(record.events_sent)
        for name in record.dropped:
            parameter = name if name in self._droppable else OTHER
            self._dropped.labels(record.route, parameter).inc()
        if record.error:
            self._errors.labels(record.route, record.error_class, _type(record.error)).inc()

    def reloaded(self, *, fine: bool) -> None:
        """Count a reload of the configuration, and whether it was valid."""
        self._reloads.labels("ok" if fine else "failed").inc()

    def set_gauges(
        self, exchanges: int, streams: int, connections: Mapping[str, tuple[int, int]]
    ) -> None:
        """Show what is open now; ``connections`` are those in use and those free, by upstream."""
        self._open.set(exchanges)
        self._streams.set(streams)
        self._upstreams |= connections.keys()
        for upstream in self._upstreams:  # those of earlier configurations, too: they have none now
            used, free = connections.get(upstream, (0, 0))
            self._connections.labels(upstream, "used").set(used)
            self._connections.labels(upstream, "free").set(free)

    # Read.

    def page(self) -> bytes | None:
        """All metrics in the text format, CONTENT_TYPE; None where they cannot be added up.

        Call it in a thread: with a shared folder it reads files.
        """
        return None if self._pages is None else generate_latest(self._pages)

    # Labels are bound once, for that costs several times as much as counting.

    def _exchange(self, key: tuple[object, ...]) -> Counter:
        route, client_version, upstream_version, hundreds, kind, ended = key
        status = f"{hundreds}xx" if hundreds else "none"
        kind = self._kind(str(kind))
        bound = (route, client_version, upstream_version, hundreds, kind, ended)
        counter = self._exchange_of.get(bound)
        if counter is None:
            counter = self._exchanges.labels(
                route, client_version, upstream_version, status, kind, ended
            )
            self._exchange_of[bound] = counter
        return counter

    def _kind(self, kind: str) -> str:
        if len(self._exchange_of) >= COMBINATIONS:
            return OTHER
        if len(self._kinds) < KINDS:
            self._kinds.add(kind)
        return kind if kind in self._kinds else OTHER

    def _bind(self, record: Record) -> _Bound:
        route, stream = record.route, "true" if record.streams else "false"
        bound = self._bound_of[route, record.streams] = _Bound(
            self._duration.labels(route, stream),
            self._first_byte.labels(route),
            self._request_bytes.labels(route),
            self._response_bytes.labels(route),
            self._upstream_bytes.labels(route),
            self._events_received.labels(route),
            self._events_sent.labels(route),
        )
        return bound


# At import: it takes a while, and later the limit of open files may be reached.
_RUNNING = {
    "version": version("anthropic-version-proxy"),
    "python": platform.python_version(),
}


class _Build:
    """Tells what runs; the library's own Info does not work across processes."""

    def collect(self) -> Iterator[Metric]:
        about = "What runs: the version of the proxy, and of Python."
        yield InfoMetricFamily(f"{PREFIX}_build", about, _RUNNING)


_TYPES = {
    *STATUS_OF_TYPE,
    *(error.type for error in (VersionRequired, InvalidVersion, UnsupportedVersion, Brownout)),
}


def _type(error: str) -> str:
    """The API's type in the ``error`` of a record; one that an upstream made up is ``other``."""
    known = error.partition(":")[0]
    return known if known in _TYPES else OTHER
