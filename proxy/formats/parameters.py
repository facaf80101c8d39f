"""Parameters of requests that more than one version change knows."""

from __future__ import annotations

HUMAN = "\n\nHuman:"
"""Begins a turn of the user in a prompt. Every call of `/v1/complete` has it as a stop sequence,
too, without naming it."""

SAMPLING = ("temperature", "top_p", "top_k")
"""How a model samples its words."""

WITHOUT_EFFECT = ("disable_checks", "stream_response", "tags")
"""What programs of 2023 set in calls of `/v1/complete`, and nothing depends on any more."""


def is_unset(parameter: str, value: object) -> bool:
    """Whether clients of 2023 sent ``value`` for a sampling parameter that they did not use."""
    if not isinstance(value, int | float):
        return False
    return (parameter in ("top_k", "top_p") and value < 0) or (parameter == "top_k" and value == 0)
