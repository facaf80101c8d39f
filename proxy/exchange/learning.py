"""Learns the limits of models from upstreams, at the start and at each reload.

It is never needed: where it fails, the log says so, and the built-in table is used.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from ..bridge.models import Learned, Profile, learn
from ..config import Config
from ..core import jsontext
from ..core.errors import ProxyError
from ..core.fields import VERSION
from ..runtime.offload import offload
from ..upstream.upstream import Upstream
from ..versions.complete_through_messages import CompleteThroughMessages
from .negotiation import nearest

log = logging.getLogger("proxy")

PATIENCE = 5.0
"""Seconds that a start may wait for an upstream's models."""

LISTING = 4 << 20
"""The largest list of models that is read, in bytes. It may take seconds, and streams go on at a
reload."""


async def learned(config: Config, upstreams: dict[str, Upstream]) -> Learned:
    """The limits of models by upstream, of the upstreams behind bridges that answer.

    Each is asked for its own: two may serve one model within different limits.
    """
    asked = sorted({route.upstream for route in config.routes if route.bridge})
    lists = await asyncio.gather(
        *(_ask(upstreams[name], config.upstreams[name].speaks) for name in asked)
    )
    return dict(zip(asked, lists, strict=True))


async def _ask(upstream: Upstream, speaks: Sequence[str]) -> dict[str, Profile]:
    version = nearest(speaks, CompleteThroughMessages.version, CompleteThroughMessages.living)
    try:
        async with asyncio.timeout(PATIENCE):
            fields = [(VERSION, version.encode())]
            answer = await upstream.call("GET", "/v1/models?limit=1000", fields, None)
            try:
                body = await answer.read_all(LISTING)
            finally:
                answer.close()
            if answer.status != 200:
                log.warning("upstream %s did not list its models: %s", upstream.name, answer.status)
                return {}
            # Urgent: large requests of clients may take longer than PATIENCE.
            return await offload(partial(_read, body), urgent=True)
    except (ProxyError, TimeoutError, jsontext.NotJSON) as error:
        reason = type(error).__name__
        log.warning("upstream %s did not list its models: %s", upstream.name, reason)
        return {}


def _read(body: bytes) -> dict[str, Profile]:
    return learn(jsontext.loads(body))
