"""A peer: fastapi-proxy-lib, which passes bytes through as a Python library should.

Its limit on connections is lifted, or it would queue requests that the others serve at once. It
runs in an environment of its own; the benchmark does not import this module.
"""

from __future__ import annotations

import os

import httpx
from fastapi_proxy_lib.fastapi.app import reverse_http_app  # type: ignore[import-not-found]

app = reverse_http_app(
    client=httpx.AsyncClient(
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None), timeout=120
    ),
    base_url=f"{os.environ['BENCH_UPSTREAM']}/",
)
