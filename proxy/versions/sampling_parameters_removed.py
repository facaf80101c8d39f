"""Version change of 2026-10-21: how a model is told to vary its words."""

from __future__ import annotations

from ..change import Body, Call, VersionChange
from .messages_call import SAMPLING
from .messages_requests import ENDPOINTS, edited


class SamplingParametersRemoved(VersionChange):
    """`temperature`, `top_p` and `top_k` are refused, whatever their value."""

    endpoints = ENDPOINTS
    drops = SAMPLING

    def upgrade_request(self, call: Call) -> Call:
        """Leave them out, and say so: models of today decide by themselves."""

        def left_out(request: Body) -> Body:
            for parameter in SAMPLING:
                if request.get(parameter) is not None:
                    call.dropped[parameter] = "gone from the API since 2026-10-21"
            return {name: value for name, value in request.items() if name not in SAMPLING}

        return edited(call, left_out)
