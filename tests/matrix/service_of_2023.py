"""A service that never left version 2023-01-01, as strict as it was.

Streams are data only, with CRLF: each event has all seven keys and the whole text so far, a ping
has a time for data, ``[DONE]`` follows the last event. Errors have no outer ``type``. What it
says, and how it can be made to fail, is as in ``proxy/sandbox``. Messages it has if it is wanted:
a streamed Message is the Message so far.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from proxy.sandbox import rules, wire
from proxy.sandbox.errors import ApiError, invalid
from proxy.sandbox.fields import V2023_06_01
from proxy.sandbox.rules import Asked
from proxy.sandbox.wire import Answer

Json = dict[str, Any]

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
REQUIRED = {"model", "prompt", "max_tokens_to_sample"}
SAMPLING = {"temperature", "top_k", "top_p"}
FIELDS = REQUIRED | SAMPLING | {"stop_sequences", "stream", "tags", "metadata", "disable_checks"}
MODELS = ("claude-v1", "claude-1", "claude-2", "claude-instant")

OVERLOADED = ApiError("overloaded_error", "Overloaded", headers={"x-should-retry": "true"})
LIMITED = ApiError(
    "rate_limit_error",
    "Number of concurrent connections to Claude exceeds your rate limit.",
    headers={"retry-after": "2"},
)
PING = b"event: ping\r\ndata: 2023-04-28 08:20:23.182135\r\n\r\n"


def build(*, messages: bool) -> Starlette:
    """The service as an ASGI app."""
    routes = [Route("/v1/complete", _complete, methods=["POST"])]
    if messages:
        routes.append(Route("/v1/messages", _message, methods=["POST"]))
    app = Starlette(routes=routes, exception_handlers={404: _not_found, ApiError: _refusal})
    app.router.redirect_slashes = False
    return app


async def _complete(request: Request) -> Response:
    asked = _read(await request.json())
    said = wire.answer(asked, " ")
    seed = wire.seed_of(await request.body())

    def completion(text: str, *, ended: bool = False, exception: str | None = None) -> Json:
        stop = {"max_tokens": None, "stop_sequence": said.stop, "end_turn": HUMAN}[said.reason]
        reason = "max_tokens" if exception or said.reason == "max_tokens" else "stop_sequence"
        return {
            "completion": text,
            "stop": stop if ended and not exception else None,
            "stop_reason": reason if ended else None,
            "truncated": False,
            "log_id": seed.hex()[:32],
            "model": asked.model,
            "exception": exception,
        }

    def snapshots() -> Iterator[Json]:
        so_far = list(accumulate(said.pieces))
        if failure == "error_mid":
            yield from map(completion, so_far[:3])
            yield completion(so_far[2], ended=True, exception="overloaded_error: Overloaded")
        else:
            yield from map(completion, so_far)
            yield completion(said.text, ended=True)

    failure = _failure(asked)
    if asked.stream:
        return _stream(snapshots())
    return JSONResponse(completion(said.text, ended=True))


async def _message(request: Request) -> Response:
    raw = await request.body()
    asked = rules.read_messages(raw, V2023_06_01)
    said = wire.answer(asked)
    seed = wire.seed_of(raw)

    def message(ended: Answer, **different: Any) -> Json:
        body = wire.message_body(asked, ended, seed)
        return body | {"truncated": False, "exception": None} | different

    def snapshots() -> Iterator[Json]:
        so_far = [Answer(said.pieces[:end], said.reason) for end in range(1, len(said.pieces) + 1)]
        if failure == "error_mid":
            yield from (message(part, stop_reason=None) for part in so_far[:3])
            told = "overloaded_error: Overloaded"
            yield message(so_far[2], stop_reason="max_tokens", exception=told)
        else:
            yield from (message(part, stop_reason=None, stop_sequence=None) for part in so_far)
            yield message(said)

    failure = _failure(asked)
    return _stream(snapshots()) if asked.stream else JSONResponse(message(said))


def _read(body: Json) -> Asked:
    """A body of ``/v1/complete``, as it could be then."""
    for name in sorted(REQUIRED - body.keys()):
        raise invalid(f"{name}: field required")
    for name in body.keys() - FIELDS:
        raise invalid(f"{name}: extra fields not permitted")
    if body["max_tokens_to_sample"] < 1:
        raise invalid("max_tokens_to_sample: must be greater than or equal to 1")
    if not body["model"].startswith(MODELS):
        raise ApiError("not_found_error", f"model: {body['model']}")
    question, assistant, prefill = body["prompt"].rpartition(ASSISTANT)
    if not body["prompt"].startswith(HUMAN) or not assistant:
        raise invalid("prompt must be Human: and Assistant: turns")
    return Asked(
        model=body["model"],
        question=question.rpartition(HUMAN)[2].strip(),
        limit=body["max_tokens_to_sample"],
        prefilled=bool(prefill.strip()),
        stops=tuple(body.get("stop_sequences") or ()),
        stream=bool(body.get("stream")),
    )


def _failure(asked: Asked) -> str | None:
    """How this answer is to fail; raises where that is before it begins."""
    failure = wire.switches(asked.question).get("fail")
    if failure == "rate_limit":
        raise LIMITED
    if failure == "overloaded" or (failure == "error_mid" and not asked.stream):
        raise OVERLOADED
    return failure


def _stream(events: Iterable[Json]) -> Response:
    def body() -> Iterator[bytes]:
        for number, event in enumerate(events):
            if number == 2:
                yield PING
            yield b"data: " + wire.compact(event) + b"\r\n\r\n"
        yield b"data: [DONE]\r\n\r\n"

    return StreamingResponse(body(), media_type="text/event-stream")


def _refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    told = {"error": {"type": error.type, "message": error.message}}
    return JSONResponse(told, error.status, error.headers)


def _not_found(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": {"type": "not_found_error", "message": "Not Found"}}, 404)
