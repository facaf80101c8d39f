"""Version change of 2023-06-01: what a request may say without asking for anything."""

from __future__ import annotations

from ..change import Call, VersionChange
from ..errors import InvalidRequest

ONLY_THEN = ("disable_checks", "stream_response", "tags")

MOST_UNSET = 1000
"""How many parameters may ask for nothing: each is noted for as long as the call lasts."""


class UnsetParametersRefused(VersionChange):
    """Values for "not set" are refused (`top_k: -1`, `stop_sequences: null`), and so is `tags`."""

    endpoints = ("/v1/complete",)

    def upgrade_request(self, call: Call) -> Call:
        """Leave out what asks for nothing; raises InvalidRequest where that is too much."""
        for parameter in ONLY_THEN:
            call.discard(parameter)
        unset = [
            parameter
            for parameter, value in call.body.items()
            if value is None or is_unset(parameter, value)
        ]
        if len(unset) > MOST_UNSET:
            raise InvalidRequest(f"The request body has more than {MOST_UNSET} unset parameters")
        for parameter in unset:
            call.discard(parameter)
        return call


def is_unset(parameter: str, value: object) -> bool:
    """Whether ``value`` is how clients of 2023 said that they do not use a sampling parameter."""
    if not isinstance(value, int | float):
        return False
    return (parameter in ("top_k", "top_p") and value < 0) or (parameter == "top_k" and value == 0)
