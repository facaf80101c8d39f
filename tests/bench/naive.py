"""A peer: the simplest translator, which many would write first.

It is correct and short: it reads a line, parses it, appends to the text, and serializes the whole
text. It is here to show what that costs. Run it with ``BENCH_UPSTREAM`` set.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

_KEYS = ("completion", "stop", "stop_reason", "truncated", "log_id", "model", "exception")

_client = httpx.AsyncClient(
    base_url=os.environ.get("BENCH_UPSTREAM", ""),
    limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
    timeout=120,
)


def _old(body: dict[str, Any], text: str) -> dict[str, Any]:
    known = {**body, "completion": text, "truncated": False, "exception": None}
    return {key: known[key] for key in _KEYS}


async def _complete(request: Request) -> Response:
    body = await request.body()
    headers = {
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
        "x-api-key": request.headers.get("x-api-key", ""),
    }
    call = _client.build_request("POST", request.url.path, content=body, headers=headers)
    answer = await _client.send(call, stream=True)
    if json.loads(body).get("stream"):
        return StreamingResponse(_snapshots(answer), media_type="text/event-stream")
    whole = json.loads(await answer.aread())
    return JSONResponse(_old(whole, whole["completion"]))


async def _snapshots(answer: httpx.Response) -> AsyncIterator[str]:
    text = ""
    try:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                increment = json.loads(line[6:])
                text += increment["completion"]
                yield f"data: {json.dumps(_old(increment, text))}\r\n\r\n"
        yield "data: [DONE]\r\n\r\n"
    finally:
        await answer.aclose()


@asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    yield
    await _client.aclose()


app = Starlette(routes=[Route("/v1/complete", _complete, methods=["POST"])], lifespan=_lifespan)
