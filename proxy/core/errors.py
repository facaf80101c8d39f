"""All errors that a client can get, and the form in which it gets them.

A class of errors has an HTTP status and a type of the API, and its base says whose fault it is. So
code that raises an error need not know about HTTP, and code that answers one not about causes.

    ProxyError
      · RequestError            the client's fault
          VersionRequired, InvalidVersion, UnsupportedVersion,
          InvalidRequest, NoRoute, MethodNotAllowed, RequestTooLarge, HeaderTooLarge,
          RequestTimeout, NotSupported, ForeignOrigin, ForeignHost
      · UpstreamError           the upstream's fault
          UpstreamRefused       it answered with an error of its own
          UpstreamUnreachable, UpstreamNonsense, UpstreamBrokeOff, UpstreamTimeout
      · Busy                    the proxy's: too many exchanges
          NoRoom                or too much that waits to be read
          Draining              or it is about to stop
      · LoopDetected            the operator's: an upstream leads back to the proxy
      · nudges.Brownout         nobody's: a call refused on schedule
    ConfigError                 the operator's: all problems of a configuration file

The body of an error is the API's: https://docs.anthropic.com/en/api/errors
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .redaction import beginning, without_keys

STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The HTTP status of each error type of the API."""

LONGEST_MESSAGE = 2000
"""The longest message about a request, in characters: it may repeat what the client sent."""

LONGEST_NAME = 253
"""The longest name in DNS, in characters (RFC 1035 §2.3.4)."""

_TYPE_OF_STATUS = {status: type_ for type_, status in STATUS_OF_TYPE.items()}


class ProxyError(Exception):
    """An error that a client gets: ``status``, ``type`` and ``message``, and fields to add."""

    status: int
    type: str

    def __init__(self, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.headers = headers

    def envelope(self) -> dict[str, Any]:
        """The body of the error, with no other keys than old clients know."""
        return {"type": "error", "error": {"type": self.type, "message": self.message}}

    def body(self) -> bytes:
        """The envelope as JSON."""
        return json.dumps(self.envelope(), separators=(",", ":")).encode()


class RequestError(ProxyError):
    """The client's fault. The message may repeat what the client sent, and is cut to a length.

    Keys that were sent by mistake are masked in it.
    """

    status = 400
    type = "invalid_request_error"

    def __init__(self, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(beginning(message, LONGEST_MESSAGE), headers)


class VersionRequired(RequestError):
    type = "version_required"


class InvalidVersion(RequestError):
    type = "invalid_version"


class UnsupportedVersion(RequestError):
    type = "unsupported_version"


class InvalidRequest(RequestError):
    pass


class NoRoute(RequestError):
    status = 404
    type = "not_found_error"


class MethodNotAllowed(RequestError):
    status = 405

    def __init__(self, method: str, path: str, allowed: tuple[str, ...]) -> None:
        allow = ", ".join(allowed)
        super().__init__(
            f"{path} does not take {method}, only {allow}", ((b"allow", allow.encode()),)
        )


class ForeignOrigin(RequestError):
    """A browser sent the request for a page of another origin (RFC 6454 §7)."""

    status = 403
    type = "permission_error"


class ForeignHost(RequestError):
    """The request names a host that may not be this proxy (RFC 9110 §15.5.20).

    ``name`` is that host, and ``setting`` where the operator lists the names of the proxy.
    """

    status = 421

    def __init__(self, name: str, setting: str) -> None:
        shown = without_keys(name)[:LONGEST_NAME]  # masked first: a key once cut is not recognized
        super().__init__(
            f"{shown!r} is not a name of this proxy: use an IP address or localhost, or add the"
            f" name to {setting}"
        )


class RequestTooLarge(RequestError):
    status = 413
    type = "request_too_large"


class HeaderTooLarge(RequestError):
    status = 431


class RequestTimeout(RequestError):
    """The request did not arrive in time (RFC 9110 §15.5.9)."""

    status = 408
    type = "timeout_error"


class NotSupported(RequestError):
    """A feature of HTTP that no upstream needs (RFC 9110 §15.6.2)."""

    status = 501


class UpstreamError(ProxyError):
    status = 502
    type = "api_error"


class UpstreamRefused(UpstreamError):
    """An error of the upstream's own, in whatever form it came."""

    def __init__(self, status: int, type_: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_


class UpstreamUnreachable(UpstreamError):
    pass


class UpstreamNonsense(UpstreamError):
    pass


class UpstreamBrokeOff(UpstreamError):
    pass


class UpstreamTimeout(UpstreamError):
    status = 504
    type = "timeout_error"


class Busy(ProxyError):
    status = 503
    type = "overloaded_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, ((b"retry-after", b"1"),))


class NoRoom(Busy):
    """What all clients together have sent, and nothing has read yet, takes too much memory."""

    def __init__(self) -> None:
        super().__init__("too much data is waiting to be read, try again shortly")


class Draining(Busy):
    def __init__(self) -> None:
        super().__init__("the proxy is shutting down")


class LoopDetected(ProxyError):
    """The request has come through this proxy too often (RFC 5842 §7.2)."""

    status = 508
    type = "api_error"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One problem in a configuration file; ``line`` and ``column`` count from 1."""

    line: int
    column: int
    where: str
    what: str
    rule: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.where}: {self.what}: {self.rule}"


class ConfigError(Exception):
    """All problems of one configuration file, in the order of its lines."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = sorted(problems)
        super().__init__("\n".join(f"{file}:{problem}" for problem in self.problems))


def refused_by_body(status: int, body: Any, text: str) -> UpstreamRefused:
    """The error in an upstream's answer of HTTP ``status``.

    ``text`` is its body, and ``body`` the JSON in it, None where it is no JSON. Servers in front of
    the API answer without the outer ``type``, as text/plain, as HTML, or with an empty body.
    """
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        type_ = error.get("type")
        type_ = type_ if isinstance(type_, str) and type_ else type_of(status)
        return UpstreamRefused(status, type_, error["message"])
    plain = text.strip()
    if not plain or plain.startswith(("<", "{", "[")):
        plain = f"upstream answered {status}"
    return UpstreamRefused(status, type_of(status), plain[:500])


def refused_in_stream(body: Any) -> UpstreamRefused:
    """The error in an upstream's ``error`` event, with the status of its type."""
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    type_ = error.get("type")
    type_ = type_ if isinstance(type_, str) and type_ else "api_error"
    message = error.get("message")
    message = message if isinstance(message, str) else "upstream reported an error"
    return UpstreamRefused(STATUS_OF_TYPE.get(type_, 500), type_, message)


def type_of(status: int) -> str:
    """The error type for an HTTP status that came without one."""
    default = "api_error" if status >= 500 else "invalid_request_error"
    return _TYPE_OF_STATUS.get(status, default)
