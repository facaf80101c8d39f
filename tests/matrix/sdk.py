"""Calls a Python SDK, of today or of early 2023, unmodified, as its README does.

Runs beside the project, never within it: see ``sdks.py``. Standard input has jobs,
standard output gets what came of each. Many are done at once; a client has a deadline.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import anthropic  # type: ignore[import-not-found]  # installed in .cache/clients only

Json = dict[str, Any]

PATIENCE = 20
"""Seconds of silence after which a call counts as hung."""


def create(client: Any, asked: Json, seen: Json) -> None:
    raw = client.messages.with_raw_response.create(**asked)
    seen["headers"] = dict(raw.headers)
    _take_message(raw.parse(), seen)


def create_stream(client: Any, asked: Json, seen: Json) -> None:
    raw = client.messages.with_raw_response.create(**asked, stream=True)
    seen["headers"] = dict(raw.headers)
    usage: Json = {}
    for event in raw.parse():
        seen["events"].append(event.type)
        match event.type:
            case "message_start":
                seen["model"] = event.message.model
                usage = event.message.usage.to_dict()
            case "content_block_delta":
                seen["pieces"].append(event.delta.text)
            case "message_delta":
                seen["stop_reason"] = event.delta.stop_reason
                seen["stop"] = event.delta.stop_sequence
                usage |= event.usage.to_dict(exclude_none=True)
    seen["text"] = "".join(seen["pieces"])
    seen["usage"] = [usage.get("input_tokens"), usage.get("output_tokens")]


def helper(client: Any, asked: Json, seen: Json) -> None:
    with client.messages.stream(**asked) as stream:
        seen["headers"] = dict(stream.response.headers)
        seen["pieces"].extend(stream.text_stream)
        _take_message(stream.get_final_message(), seen)


def completion(client: Any, asked: Json, seen: Json) -> None:
    raw = client.completions.with_raw_response.create(**asked)
    seen["headers"] = dict(raw.headers)
    _take_completion(raw.parse(), seen)
    seen["text"] = seen["pieces"].pop()


def completion_stream(client: Any, asked: Json, seen: Json) -> None:
    raw = client.completions.with_raw_response.create(**asked, stream=True)
    seen["headers"] = dict(raw.headers)
    for part in raw.parse():
        seen["events"].append(part.type)
        _take_completion(part, seen)
    seen["text"] = "".join(seen["pieces"])


def count_tokens(client: Any, asked: Json, seen: Json) -> None:
    raw = client.messages.with_raw_response.count_tokens(**asked)
    seen["headers"] = dict(raw.headers)
    seen["usage"] = [raw.parse().input_tokens, None]


def models(client: Any, asked: Json, seen: Json) -> None:
    raw = client.models.with_raw_response.list(**asked)
    seen["headers"] = dict(raw.headers)
    seen["text"] = raw.http_response.text


def old_completion(client: Any, asked: Json, seen: Json) -> None:
    _take_old(client.completion(**asked), seen)


def old_completion_stream(client: Any, asked: Json, seen: Json) -> None:
    for part in client.completion_stream(**asked):
        seen["pieces"].append(part["completion"])
        _take_old(part, seen)


METHODS: dict[str, Callable[[Any, Json, Json], None]] = {
    "messages.create": create,
    "messages.create+stream": create_stream,
    "messages.stream": helper,
    "messages.count_tokens": count_tokens,
    "completions.create": completion,
    "completions.create+stream": completion_stream,
    "models.list": models,
    "completion": old_completion,
    "completion_stream": old_completion_stream,
}


def _take_message(message: Any, seen: Json) -> None:
    seen["text"] = "".join(block.text for block in message.content)
    seen["model"] = message.model
    seen["stop_reason"], seen["stop"] = message.stop_reason, message.stop_sequence
    seen["usage"] = [message.usage.input_tokens, message.usage.output_tokens]


def _take_completion(part: Any, seen: Json) -> None:
    seen["pieces"].append(part.completion)
    seen["model"] = part.model
    seen["stop_reason"], seen["stop"] = part.stop_reason, part.to_dict().get("stop")


def _take_old(part: Json, seen: Json) -> None:
    seen["text"], seen["model"] = part["completion"], part["model"]
    seen["stop_reason"], seen["stop"] = part["stop_reason"], part["stop"]
    seen["exception"] = part["exception"]


@cache
def shared() -> Any:
    """What all calls have in common, which is costly to make."""
    return anthropic.Anthropic(api_key="none", timeout=PATIENCE)


def client_of(job: Json) -> Any:
    """A client as programs of its time made one."""
    if not hasattr(anthropic, "Anthropic"):
        return anthropic.Client(job["key"], api_url=job["url"], default_request_timeout=PATIENCE)
    return shared().with_options(
        api_key=job["key"], base_url=job["url"], max_retries=job["retries"]
    )


def done(job: Json) -> Json:
    """One call, and all that its caller saw of it."""
    client = client_of(job)
    asked = dict(job["asked"])
    if unknown := job["unknown"]:
        asked["extra_body"] = unknown
    seen: Json = {"pieces": [], "events": []}
    try:
        METHODS[job["call"]](client, asked, seen)
    except Exception as raised:  # noqa: BLE001  (whatever the SDK raises is what came of it)
        seen["error"] = {
            "type": type(raised).__name__,
            "status": getattr(raised, "status_code", None),
            "body": getattr(raised, "body", None),
            "message": str(raised),
        }
    return seen


if __name__ == "__main__":
    jobs = json.load(sys.stdin)
    with ThreadPoolExecutor(8) as threads:
        outcomes = dict(zip(jobs, threads.map(done, jobs.values()), strict=True))
    json.dump(outcomes, sys.stdout, default=repr)
