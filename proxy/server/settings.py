"""uvicorn's settings for an application, and those of its connections.

It is pinned to one parser and one loop, so that what the tests hold is what runs.
"""

from __future__ import annotations

import math

from starlette.types import ASGIApp
from uvicorn.protocols.http import httptools_impl

from ..app import App
from ..config import Config
from ..connection.protocol import Settings
from ..connection.terms import Terms
from .listeners import BACKLOG

AFTER_DRAIN = 5
"""Seconds that exchanges which the end of the drain has cut have to send their last event."""

KEEP_ALIVE = 75
"""Seconds that an idle client connection is kept: longer than load balancers keep theirs."""

_PHRASES = {499: "Client Closed Request", 529: "Overloaded"}


def settings_for(app: ASGIApp) -> Settings:
    """The settings to serve ``app`` with, be it the proxy or another application."""
    drain = app.config.server.drain if isinstance(app, App) else 0
    _add_reason_phrases()
    return Settings(
        app,
        _TermsOf(app) if isinstance(app, App) else Terms,
        interface="asgi3",
        loop="uvloop",
        ws="none",
        workers=1,  # or uvicorn would read WEB_CONCURRENCY, and fail where that is no number
        lifespan="on" if isinstance(app, App) else "auto",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(drain) + AFTER_DRAIN,
    )


def longest_stop(config: Config) -> int:
    """The seconds within which a process that was told to stop has stopped."""
    return math.ceil(config.server.drain) + AFTER_DRAIN


class _TermsOf:
    """The terms of the configuration in force, made once for each configuration.

    A client may take nothing for as long as the longest ``timeouts.idle`` of all upstreams.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._made_for: Config | None = None
        self._terms = Terms()

    def __call__(self) -> Terms:
        config = self._app.config
        if config is not self._made_for:
            self._made_for = config
            patience = max(upstream.timeouts.idle for upstream in config.upstreams.values())
            self._terms = Terms(config.limits.header_bytes, patience, self._app.notify)
        return self._terms


def _add_reason_phrases() -> None:
    """Give every status a reason phrase, 529 above all, in uvicorn's table.

    The SDKs of 2023 show their users nothing but status and phrase ("529 undefined").
    """
    table = httptools_impl.STATUS_LINE
    for status, line in table.items():
        if line.endswith(b" \r\n"):
            general = "Server Error" if status >= 500 else "Unknown"
            phrase = _PHRASES.get(status, general)
            table[status] = f"HTTP/1.1 {status} {phrase}\r\n".encode()
