"""Asks a running proxy how it is, for health checks where there is nothing else to ask with.

``python -m proxy.probe [PATH [PORT]]`` exits with 0 where 127.0.0.1 answers with 200, else with 1
and the reason on standard error. PATH is ``/-/healthy`` if left out, PORT ``$PORT`` or 8080, as in
the configuration. It runs beside the proxy every few seconds, so it loads a socket and no more: the
standard library's HTTP client costs twice as much, and the proxy itself ten times.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence

PATIENCE = 2.0
"""Seconds that connecting, and each piece of the answer, may take."""

LONGEST_LINE = 1024
"""The most bytes that are read of a status line."""


def main(arguments: Sequence[str]) -> str | None:
    """Ask once; returns what is wrong, or None."""
    path = arguments[0] if arguments else "/-/healthy"
    port = arguments[1] if arguments[1:] else os.environ.get("PORT") or "8080"
    try:
        status = _status_line(path, int(port))
    except (OSError, ValueError) as error:
        return f"{path} on port {port}: {error}"
    return None if status.split()[1:2] == ["200"] else f"{path} on port {port}: {status!r}"


def _status_line(path: str, port: int) -> str:
    """The first line of the answer (RFC 9112 §4); raises OSError where there is none."""
    request = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(request.encode())
        with connection.makefile("rb") as answer:
            return answer.readline(LONGEST_LINE).decode("latin-1").rstrip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
