"""Version change of 2026-10-21: which messages may have documents."""

from __future__ import annotations

from typing import Any

from ..core.change import Body, Call, VersionChange
from ..formats.messages_requests import ENDPOINTS, edited


class DocumentsLeftAssistantTurns(VersionChange):
    """`document` blocks are refused as direct content of assistant messages."""

    endpoints = ENDPOINTS

    def upgrade_request(self, call: Call) -> Call:
        """Move each to the end of the user message before it, so that the model still reads it."""

        def edit(request: Body) -> Body:
            messages = request.get("messages")
            if not isinstance(messages, list) or not any(map(_documents, messages)):
                return request
            call.notes.append(
                "messages: documents in assistant messages moved to the user message before"
            )
            return request | {"messages": _moved(messages)}

        return edited(call, edit)


def _moved(messages: list[Any]) -> list[Any]:
    """``messages``, with the documents of each assistant message at the end of the one before.

    Where that is no user message, a new one takes them.
    """
    moved: list[Any] = []
    content: list[Any] | None = None  # of the user message that the next document moves to
    for message in messages:
        documents = _documents(message)
        if not documents:
            content = None
            moved.append(message)
            continue
        if content is None:
            content = _user_content(moved)
        content += documents
        rest = [block for block in message["content"] if not _is_document(block)]
        if rest:
            content = None
            moved.append(message | {"content": rest})
    return moved


def _user_content(moved: list[Any]) -> list[Any]:
    """The content of a user message at the end of ``moved``, to append to: a copy, or a new one."""
    content: list[Any] = []
    if moved and _takes_blocks(moved[-1]):
        user = moved.pop()
        content += _blocks(user["content"])
    else:
        user = {"role": "user"}
    moved.append(user | {"content": content})
    return content


def _takes_blocks(message: Any) -> bool:
    """Whether it is a valid user message; an invalid one is left for the API to refuse."""
    if not isinstance(message, dict) or message.get("role") != "user":
        return False
    return isinstance(message.get("content"), str | list)


def _documents(message: Any) -> list[Body]:
    """The documents of a message, if it is the assistant's."""
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return []
    content = message.get("content")
    return [block for block in content if _is_document(block)] if isinstance(content, list) else []


def _is_document(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "document"


def _blocks(content: str | list[Any]) -> list[Any]:
    """The content of a message as blocks; a string is short for one of text."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content
