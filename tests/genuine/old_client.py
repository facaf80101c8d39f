"""Calls the genuine Python SDK of early 2023, unmodified, as its examples of then did.

Runs beside the project, never within it; the argument says whether PromptLayer wraps the SDK.
Standard input has jobs, see ``scenarios.py``; standard output gets what came of each. All are
done at once, so that one that hangs costs no other its time.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

if sys.argv[1:] == ["promptlayer"]:
    os.environ["URL_API_PROMPTLAYER"] = "http://127.0.0.1:9"  # where it logs: nobody is there
    warnings.simplefilter("ignore")  # it was written for libraries of then
    import promptlayer  # type: ignore[import-not-found]

    promptlayer.api_key = "pl-of-2023"
    anthropic = promptlayer.anthropic
else:
    import anthropic  # type: ignore[import-not-found,no-redef]

Json = dict[str, Any]

PATIENCE = 10
"""Seconds of silence after which a job counts as hung."""


def completion(client: Any, asked: Json, events: list[Json], _leave: bool) -> None:
    """What examples/basic_sync.py does."""
    events.append(client.completion(**asked))


def completion_stream(client: Any, asked: Json, events: list[Json], leave: bool) -> None:
    """What examples/basic_stream.py does."""
    for data in client.completion_stream(**asked):
        events.append(data)
        if leave:
            break


def acompletion(client: Any, asked: Json, events: list[Json], _leave: bool) -> None:
    """What examples/basic_async.py does."""
    events.append(asyncio.run(client.acompletion(**asked)))


def acompletion_stream(client: Any, asked: Json, events: list[Json], leave: bool) -> None:
    """What examples/basic_async_stream.py does."""

    async def read() -> None:
        stream = await client.acompletion_stream(**asked)
        async for data in stream:
            events.append(data)
            if leave:
                break
        await getattr(stream, "generator", stream).aclose()  # PromptLayer wraps it

    asyncio.run(read())


METHODS: dict[str, Callable[[Any, Json, list[Json], bool], None]] = {
    "completion": completion,
    "completion_stream": completion_stream,
    "acompletion": acompletion,
    "acompletion_stream": acompletion_stream,
}


def done(job: Json) -> Json:
    """One call, and all that the caller saw of it; the last event is the result."""
    client = anthropic.Client(job["key"], api_url=job["url"], default_request_timeout=PATIENCE)
    asked = {
        "prompt": f"{anthropic.HUMAN_PROMPT} {job['ask']}{anthropic.AI_PROMPT}",
        "stop_sequences": [anthropic.HUMAN_PROMPT],
        **job["parameters"],
    }
    events: list[Json] = []
    error = None
    try:
        METHODS[job["method"]](client, asked, events, job["leave"])
    except Exception as raised:  # noqa: BLE001  (whatever the SDK raises is what came of it)
        error = {"type": type(raised).__name__, "args": list(raised.args)}
    return {"events": events, "result": events[-1] if events else None, "error": error}


if __name__ == "__main__":
    jobs = json.load(sys.stdin)
    with ThreadPoolExecutor(len(jobs)) as threads:
        outcomes = dict(zip(jobs, threads.map(done, jobs.values()), strict=True))
    json.dump(outcomes, sys.stdout, default=repr)
