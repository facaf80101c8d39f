"""The models of the sandbox: those of today's API, and what each of them takes."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from .errors import ApiError


class Model(NamedTuple):
    id: str
    created: str
    max_tokens: int = 128_000
    prefill: bool = False
    sampling: bool = False
    thinking_off: bool = True
    """Whether it takes ``thinking: {"type": "disabled"}``."""

    @property
    def info(self) -> dict[str, Any]:
        line, *numbers = self.id.removeprefix("claude-").split("-")
        version = ".".join(number for number in numbers if len(number) < len("20250101"))
        return {
            "type": "model",
            "id": self.id,
            "display_name": f"Claude {line.title()} {version}",
            "created_at": f"{self.created}T00:00:00Z",
            "max_input_tokens": 200_000 if self.max_tokens == 64_000 else 1_000_000,
            "max_tokens": self.max_tokens,
        }


MODELS = (
    Model("claude-fable-5-2", "2026-11-09", thinking_off=False),
    Model("claude-mythos-5-2", "2026-11-09", thinking_off=False),
    Model("claude-haiku-5-5", "2026-10-07"),
    Model("claude-sonnet-5-5", "2026-09-28", thinking_off=False),
    Model("claude-opus-5-5", "2026-09-22", thinking_off=False),
    Model("claude-fable-5-1", "2026-09-01", thinking_off=False),
    Model("claude-mythos-5-1", "2026-09-01", thinking_off=False),
    Model("claude-opus-5", "2026-07-24"),
    Model("claude-sonnet-5", "2026-06-30"),
    Model("claude-fable-5", "2026-06-09", thinking_off=False),
    Model("claude-mythos-5", "2026-06-09", thinking_off=False),
    Model("claude-opus-4-8", "2026-05-28"),
    Model("claude-opus-4-7", "2026-04-16"),
    Model("claude-sonnet-4-6", "2026-02-17", sampling=True),
    Model("claude-opus-4-6", "2026-02-05", sampling=True),
    Model("claude-opus-4-5-20251101", "2025-11-24", 64_000, prefill=True, sampling=True),
    Model("claude-haiku-4-5-20251001", "2025-10-15", 64_000, prefill=True, sampling=True),
    Model("claude-sonnet-4-5-20250929", "2025-09-29", 64_000, prefill=True, sampling=True),
)
_BY_NAME = {model.id: model for model in MODELS}
_BY_NAME |= {re.sub(r"-\d{8}$", "", model.id): model for model in MODELS}


def find_model(name: str) -> Model:
    if name not in _BY_NAME:
        raise ApiError("not_found_error", f"model: {name}")
    return _BY_NAME[name]
