"""How the sandbox says no: in the words and with the fields of the API."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.errors import STATUS_OF_TYPE


class ApiError(Exception):
    """An answer of the API that is an error."""

    def __init__(
        self,
        type_: str,
        message: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.type = type_
        self.message = message
        self.status = status or STATUS_OF_TYPE[type_]
        self.headers = dict(headers or {})


def invalid(message: str) -> ApiError:
    return ApiError("invalid_request_error", message)


def overloaded() -> ApiError:
    return ApiError("overloaded_error", "Overloaded", headers={"x-should-retry": "true"})


def rate_limited() -> ApiError:
    used_up = {"retry-after": "2", "anthropic-ratelimit-requests-remaining": "0"}
    message = "This request would exceed the rate limit of the sandbox. Please try again later."
    return ApiError("rate_limit_error", message, headers={"x-should-retry": "true"} | used_up)
