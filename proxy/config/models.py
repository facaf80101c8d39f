"""Reads the section ``models``: which model answers for which name or glob."""

from __future__ import annotations

import re
from fnmatch import translate

from ..bridge.models import ModelTarget
from .reach import Takes, reached
from .readers import matching, whole
from .yamltext import Fields, Value


def read_models(value: Value) -> tuple[ModelTarget, ...]:
    """The models in their order, of which the first match wins; raises Wrong."""
    models = value.lines(lambda key, pattern, entry: (key, _model(entry, pattern)))
    return tuple(model for _, model in reached(models, _takes_all_models_of))


def _model(value: Value, pattern: str) -> ModelTarget:
    if not value.is_mapping:
        return ModelTarget(pattern, _model_name(value), None)
    with Fields(value) as field:
        return ModelTarget(
            pattern=pattern,
            to=field.require("to", _model_name, ""),
            max_tokens=field.take("max_tokens", whole(1, 10_000_000), None),
        )


_model_name = matching(r"[!-~]+", "must be the name of a model")


def _takes_all_models_of(earlier: ModelTarget) -> Takes[ModelTarget]:
    if "[" in earlier.pattern:  # not worth the set arithmetic
        return lambda _: False  # a mistake may go unnoticed, but no valid file is refused
    literal = re.split(r"[*?[]", earlier.pattern, maxsplit=1)[0]
    takes = re.compile(translate(earlier.pattern)).match

    def takes_all_of(later: ModelTarget) -> bool:
        if not later.pattern.startswith(literal):  # which settles most, and quickly
            return False
        # The shortest and a very long name: a glob that takes both takes whatever is between.
        sample = re.sub(r"\[!?.[^\]]*\]|\?", "\0", later.pattern)
        fills = ("", "\0" * (len(earlier.pattern) + 1))
        return all(takes(sample.replace("*", fill)) for fill in fills)

    return takes_all_of
