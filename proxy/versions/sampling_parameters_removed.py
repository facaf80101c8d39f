"""Version change of 2026-10-21: parameters of how a model samples its words."""

from __future__ import annotations

from ..core.change import Body, Call, VersionChange
from ..formats.messages_requests import ENDPOINTS, edited
from ..formats.parameters import SAMPLING


class SamplingParametersRemoved(VersionChange):
    """`temperature`, `top_p` and `top_k` are refused, whatever their value."""

    endpoints = ENDPOINTS
    drops = SAMPLING

    def upgrade_request(self, call: Call) -> Call:
        """Drop them."""

        def without_sampling(request: Body) -> Body:
            for parameter in SAMPLING:
                if request.get(parameter) is not None:
                    call.dropped[parameter] = "removed from the API at 2026-10-21"
            return {name: value for name, value in request.items() if name not in SAMPLING}

        return edited(call, without_sampling)
