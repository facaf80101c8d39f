"""Version change of 2026-10-21: where a document may stand."""

from __future__ import annotations

from typing import Any

from ..change import Body, Call, VersionChange
from .messages_requests import ENDPOINTS, edited


class DocumentsLeftAssistantTurns(VersionChange):
    """`document` blocks do not stand directly in assistant messages."""

    endpoints = ENDPOINTS

    def upgrade_request(self, call: Call) -> Call:
        """Move each to the end of the user message before it: so the model still reads it."""

        def edit(request: Body) -> Body:
            messages = request.get("messages")
            if not isinstance(messages, list) or not any(map(_documents, messages)):
                return request
            note = "messages: documents of the assistant are handed in by the user before it"
            call.notes.append(note)
            return request | {"messages": _moved(messages)}

        return edited(call, edit)


def _moved(messages: list[Any]) -> list[Any]:
    moved: list[Any] = []
    for message in messages:
        documents = _documents(message)
        if not documents:
            moved.append(message)
            continue
        if moved and isinstance(moved[-1], dict) and moved[-1].get("role") == "user":
            moved[-1] = moved[-1] | {"content": [*_blocks(moved[-1].get("content")), *documents]}
        else:
            moved.append({"role": "user", "content": documents})
        rest = [block for block in message["content"] if block not in documents]
        if rest:
            moved.append(message | {"content": rest})
    return moved


def _documents(message: Any) -> list[Body]:
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return []
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    return [b for b in blocks if isinstance(b, dict) and b.get("type") == "document"]


def _blocks(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content if isinstance(content, list) else []
