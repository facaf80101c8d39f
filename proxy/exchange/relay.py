"""The ASGI application for everything that goes to an upstream.

However an exchange ends, one record says how.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

from starlette.types import Receive, Scope, Send

from ..bridge.models import Learned
from ..config import Config
from ..core import hosts
from ..core.errors import ProxyError
from ..core.redaction import beginning
from ..observe.record import LONGEST_VALUE, Observer, Record
from ..upstream.upstream import Upstream
from . import guard, identity
from .client import Client
from .exchange import Exchange
from .exchanges import OpenExchanges
from .extensions import ClientLeft
from .routing import Routes


class Relay:
    """The ASGI application for everything that goes to an upstream.

    ``notify`` is called with the record of each exchange that is over; ``learned`` is what
    upstreams said about their models.
    """

    def __init__(
        self,
        config: Config,
        upstreams: Mapping[str, Upstream],
        exchanges: OpenExchanges,
        notify: Observer,
        learned: Learned = MappingProxyType({}),
    ) -> None:
        self._config = config
        self._routes = Routes(config.routes)
        self._upstreams = upstreams
        self._exchanges = exchanges
        self._notify = notify
        self._learned = learned

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = Client(scope, receive, send)
        path = client.path.decode("latin-1")
        record = Record(
            client.method,
            beginning(path, LONGEST_VALUE),
            client=identity.kind_of(client.named),
            key=identity.fingerprint_of(client.named),
        )
        exchange = Exchange(self._config, self._learned, client, record)
        try:
            guard.check(client.fields, client.named, client.path, self._config.limits.header_bytes)
            if (ours := self._config.server.hosts) is not None:
                hosts.check(client.fields, ours, "server.hosts")
                hosts.check_origin(client.fields, ours, "server.hosts")
            match = self._routes.find(client.method, path)
            with self._exchanges.one(exchange.record) as work:
                await exchange.run(match, self._upstreams[match.route.upstream], work)
        except (ClientLeft, ProxyError) as error:
            try:
                await exchange.end_early(error)
            finally:  # its traceback refers to frames that refer to it: a reference cycle
                error.__traceback__ = error.__context__ = None
        except asyncio.CancelledError:  # by the server, at the end of a drain
            exchange.record.ended = "drained"
            raise
        except Exception:
            exchange.record.ended = "crashed"
            raise
        finally:
            exchange.close()  # first, for an observer may fail
            self._notify(exchange.finished())
