"""The models that answer for retired ones: which one, and what it takes.

Two tables. ``ModelTarget`` is the operator's: a name or glob of 2023, and the model of today.
``PROFILES`` is ours: what the API refuses for each model of today, so that an old parameter is
left out instead of failing the call. https://docs.anthropic.com/en/docs/about-claude/models
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ModelTarget:
    """One line of the model map: models named like ``pattern`` are answered by ``to``.

    ``max_tokens`` caps the answer's length, in tokens; None leaves it to the model.
    """

    pattern: str
    to: str
    max_tokens: int | None = None


Thinking = Literal["off", "disabled", "between_tools", "always"]
"""How a model is kept from thinking: it does not by itself (``off``), it is told not to
(``disabled``), it is told to between tool calls only (``between_tools``), or not at all
(``always``)."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a model takes."""

    pattern: str
    sampling: bool
    """temperature, top_p and top_k; never temperature and top_p at once."""
    prefill: bool
    """A last message of the assistant, which the answer continues."""
    thinking: Thinking
    max_tokens: int
    """The longest answer, in tokens; more is refused."""


Learned = Mapping[str, Mapping[str, Profile]]
"""What upstreams, by their names, said of their models."""

PROFILES = (
    #       model                  sampling  prefill  thinking         max_tokens
    Profile("claude-haiku-4-5*",   True,     True,    "off",           64_000),
    Profile("claude-sonnet-4-5*",  True,     True,    "off",           64_000),
    Profile("claude-opus-4-5*",    True,     True,    "off",           64_000),
    Profile("claude-sonnet-4-6*",  True,     False,   "off",           128_000),
    Profile("claude-opus-4-6*",    True,     False,   "off",           128_000),
    Profile("claude-opus-4-7*",    False,    False,   "off",           128_000),
    Profile("claude-opus-4-8*",    False,    False,   "off",           128_000),
    Profile("claude-sonnet-5-5*",  False,    False,   "between_tools", 128_000),
    Profile("claude-opus-5-5*",    False,    False,   "always",        128_000),
    Profile("claude-haiku-5-5*",   False,    False,   "disabled",      128_000),
    Profile("claude-sonnet-5*",    False,    False,   "disabled",      128_000),
    Profile("claude-opus-5*",      False,    False,   "disabled",      128_000),
    Profile("claude-fable-*",      False,    False,   "always",        128_000),
    Profile("claude-mythos-*",     False,    False,   "always",        128_000),
    # What is not known takes the least, and is not told about a setting it may not have.
    Profile("*",                   False,    False,   "off",           64_000),
)  # fmt: skip


def target(models: Iterable[ModelTarget], name: str) -> ModelTarget:
    """The first line of the map that ``name`` matches; a name without one is kept."""
    for candidate in models:
        if fnmatchcase(name, candidate.pattern):
            return candidate
    return ModelTarget(name, name)


def profile(name: str, learned: Mapping[str, Profile] = MappingProxyType({})) -> Profile:
    """What the model ``name`` takes: by what was ``learned`` of it, else by our table."""
    if name in learned:
        return learned[name]
    return next(known for known in PROFILES if fnmatchcase(name, known.pattern))


def learn(listing: Any) -> dict[str, Profile]:
    """What an answer of `GET /v1/models` says of each model beyond our table.

    That is how long an answer may be and how thinking is kept off; what it does not say stays as
    it is. https://docs.anthropic.com/en/api/models-list
    """
    entries = listing.get("data") if isinstance(listing, dict) else None
    entries = entries if isinstance(entries, list) else []
    models = [entry for entry in entries if isinstance(entry, dict)]
    return {
        model["id"]: _learned(profile(model["id"]), model)
        for model in models
        if isinstance(model.get("id"), str)
    }


def _learned(known: Profile, model: dict[str, Any]) -> Profile:
    limit = model.get("max_tokens")
    if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
        known = replace(known, max_tokens=limit)
    if known.pattern != "*":  # what we know of thinking was tried
        return known
    ways: tuple[Thinking, ...] = ("disabled", "between_tools")
    offered = [way for way in ways if _offers(model, way)]
    return replace(known, thinking=offered[0]) if offered else known


def _offers(model: dict[str, Any], way: str) -> bool:
    value: Any = model
    for key in ("capabilities", "thinking", "types", way):
        value = value.get(key) if isinstance(value, dict) else None
    return value.get("supported") is True if isinstance(value, dict) else value is True
