"""What our server and an exchange tell each other beyond ASGI, by extensions of the scope.

The server reports at once that the client has disconnected: a task that waits for the standard's
http.disconnect would cost as much as the rest of the exchange. Under another server an exchange
works without them, but does not notice that its client has left.
https://asgi.readthedocs.io/en/latest/extensions.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..core.errors import ProxyError

CONNECTION = "anthropic-version-proxy"
"""The extension in the scope under which our server offers a Connection."""

EMPTY_QUERY = "anthropic-version-proxy.empty-query"
"""The extension in the scope of a request whose query is empty: ASGI cannot tell ``/path?`` from
``/path``."""

FOLLOWED = "anthropic-version-proxy.followed"
"""The key in the message that begins a response, which says whether some of its body follows at
once, so that our server may write both together."""


class ClientLeft(Exception):
    """The client closed its connection: no error, for old SDKs do so once they saw the stop."""


class ClientStalled(ClientLeft):
    """The client took nothing for too long, so that its connection was closed."""


Gone = ClientLeft | ProxyError
"""Why there is nobody to answer any more."""


class Connection(Protocol):
    """What our server offers for a client beyond ASGI."""

    def when_left(self, call: Callable[[Gone], None]) -> None:
        """Make this ``call`` when the client is gone, at once if it is already.

        A ProxyError says that it is still there, but its request will never be complete. It has
        been answered with that error, unless the response had begun.
        """

    def write(self, parts: Sequence[bytes]) -> bool:
        """Write parts of the body, unless that has to wait; returns whether they were written.

        Each is in a chunk of its own, unless the client knows no chunks.
        """
