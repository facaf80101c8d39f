"""Version change of 2026-10-21: citations in what the user says."""

from __future__ import annotations

from typing import Any

from ..core.change import Body, Call, VersionChange
from ..formats.messages_requests import ENDPOINTS, edited, edited_messages


class CitationsLeftUserText(VersionChange):
    """`citations` are refused on text blocks of user messages; only answers have them."""

    endpoints = ENDPOINTS
    drops = ("citations",)

    def upgrade_request(self, call: Call) -> Call:
        """Drop them; the text itself stays as it is."""

        def bare(content: list[Any]) -> list[Any]:
            return [_without_citations(block, call) for block in content]

        def edit(request: Body) -> Body:
            return edited_messages(request, "user", bare)

        return edited(call, edit)


def _without_citations(block: Any, call: Call) -> Any:
    if not isinstance(block, dict) or block.get("type") != "text" or not block.get("citations"):
        return block
    call.dropped["citations"] = "not accepted on a user's text since 2026-10-21"
    return {field: value for field, value in block.items() if field != "citations"}
