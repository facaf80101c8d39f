"""Version change of 2023-06-01: parameters of a request that have no effect."""

from __future__ import annotations

from ..core.change import Call, VersionChange
from ..core.errors import InvalidRequest
from ..formats.parameters import WITHOUT_EFFECT, is_unset

MOST_UNSET = 1000
"""How many parameters of a request may be unset: there is a note on each until the call is over."""


class UnsetParametersRefused(VersionChange):
    """Placeholders for "not set", such as `top_k: -1`, are refused, and so is the unused `tags`."""

    endpoints = ("/v1/complete",)

    def upgrade_request(self, call: Call) -> Call:
        """Leave out what has no effect; raises InvalidRequest where that is too much."""
        for parameter in WITHOUT_EFFECT:
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
