"""Which model answers for a retired one, and which parameters that model accepts.

There are two tables. The operator's has a ``ModelTarget`` for each name or glob of 2023. Ours,
``PROFILES``, says what the API accepts for each model of today, so that an old parameter is left
out instead of failing the call. https://docs.anthropic.com/en/docs/about-claude/models
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Literal

from ..core.change import Body
from ..formats.leniently import as_list, as_object


@dataclass(frozen=True, slots=True)
class ModelTarget:
    """One line of the model map: for models named like the glob ``pattern``, ``to`` answers.

    ``max_tokens`` caps the length of answers, in tokens; None leaves it to the model.
    """

    pattern: str
    to: str
    max_tokens: int | None = None


Thinking = Literal["off", "disabled", "between_tools", "always"]
"""How a model is kept from thinking: it thinks only if asked to (``off``), it is asked not to
(``disabled``), it is asked to think between tool calls only (``between_tools``), or it cannot be
kept from it (``always``)."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What the API accepts for a model."""

    pattern: str
    sampling: bool
    """temperature, top_p and top_k; never temperature and top_p at once."""
    prefill: bool
    """A last message of the assistant, which the answer continues."""
    thinking: Thinking
    max_tokens: int
    """The longest answer, in tokens; more is refused."""


Learned = Mapping[str, Mapping[str, Profile]]
"""What upstreams said about their models: by the upstream's name, then by the model's."""

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
    # Unknown models get the fewest parameters, and no setting that they may not have.
    Profile("*",                   False,    False,   "off",           64_000),
)  # fmt: skip


def target(models: Iterable[ModelTarget], name: str) -> ModelTarget:
    """The first line of the model map that matches ``name``; without any, the name is kept."""
    for candidate in models:
        if fnmatchcase(name, candidate.pattern):
            return candidate
    return ModelTarget(name, name)


def profile(name: str, learned: Mapping[str, Profile] = MappingProxyType({})) -> Profile:
    """The profile of the model ``name``: the one ``learned`` from its upstream, or else ours."""
    if name in learned:
        return learned[name]
    return next(known for known in PROFILES if fnmatchcase(name, known.pattern))


def learn(listing: Any) -> dict[str, Profile]:
    """The profiles of the models in an answer of `GET /v1/models`.

    It says how long an answer may be, and for unknown models how to keep them from thinking; the
    rest is from our table. https://docs.anthropic.com/en/api/models-list
    """
    models = map(as_object, as_list(as_object(listing).get("data")))
    return {
        model["id"]: _learned(profile(model["id"]), model)
        for model in models
        if isinstance(model.get("id"), str)
    }


def _learned(known: Profile, model: Body) -> Profile:
    """The profile ``known`` of a model, corrected by what the model says of itself."""
    limit = model.get("max_tokens")
    if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
        known = replace(known, max_tokens=limit)
    if known.pattern != "*":  # our table was tried out, and is more exact
        return known
    ways: tuple[Thinking, ...] = ("disabled", "between_tools")
    offered = [way for way in ways if _offers(model, way)]
    return replace(known, thinking=offered[0]) if offered else known


def _offers(model: Body, way: str) -> bool:
    """Whether a model says that it takes this type of ``thinking``."""
    value: Any = model
    for key in ("capabilities", "thinking", "types", way):
        value = as_object(value).get(key)
    return value.get("supported") is True if isinstance(value, dict) else value is True
