"""Requests for Messages, wherever a call has them: alone, to count their tokens, or in a batch.

https://docs.anthropic.com/en/api/creating-message-batches
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.change import Body, Call

COUNT_TOKENS = "/v1/messages/count_tokens"
BATCHES = "/v1/messages/batches"
ENDPOINTS = ("/v1/messages", COUNT_TOKENS, BATCHES)

Edit = Callable[[Body], Body]


def edited(call: Call, edit: Edit) -> Call:
    """Apply ``edit`` to each request for a Message in ``call``; it returns an altered copy."""
    if call.endpoint != BATCHES:
        call.body = edit(call.body)
        return call
    requests = call.body.get("requests")
    if isinstance(requests, list):
        call.body = call.body | {"requests": [_with_edited(request, edit) for request in requests]}
    return call


def edited_messages(request: Body, role: str, edit: Callable[[list[Any]], list[Any]]) -> Body:
    """``request`` with ``edit`` applied to the content of each message of ``role`` with blocks."""
    messages = request.get("messages")
    if not isinstance(messages, list):
        return request
    return request | {"messages": [_with_content(message, role, edit) for message in messages]}


def _with_edited(request: Any, edit: Edit) -> Any:
    if isinstance(request, dict) and isinstance(request.get("params"), dict):
        return request | {"params": edit(request["params"])}
    return request


def _with_content(message: Any, role: str, edit: Callable[[list[Any]], list[Any]]) -> Any:
    if not isinstance(message, dict) or message.get("role") != role:
        return message
    content = message.get("content")
    return message | {"content": edit(content)} if isinstance(content, list) else message
