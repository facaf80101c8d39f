"""The page that shows who still speaks an old version, and the ledger that it reads.

The page is a single file, which loads nothing but the ledger and the playground beside it. Clients
choose the names that it shows, so its Content-Security-Policy lets only its own script run and
nothing be fetched from elsewhere. https://www.w3.org/TR/CSP3/
"""

from __future__ import annotations

import asyncio
import re
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, Iterator
from email.utils import formatdate
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ..core.errors import Busy, InvalidRequest
from ..ledger.journal import Journal
from ..ledger.report import as_csv, as_json
from ..ledger.tally import HOUR
from .counted import Counted

FILE = Path(__file__).with_name("page.html")

AT_ONCE = 16
"""How many clients may read the ledger at a time: each takes a list of all entries to its end."""

Form = Literal["json", "csv", "html"]

_MEDIA_TYPES: dict[Form, str] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "html": "text/html; charset=utf-8",
}


def routes(journal: Journal) -> list[Route]:
    """``GET /-/ledger`` in its three forms, and ``GET /-/``, which redirects there."""
    process = uuid4().hex
    turn = asyncio.Lock()
    reading: set[Counted] = set()
    _page()  # now: later the limit of open files may be reached

    async def ledger(request: Request) -> Response:
        form = _form(request)
        if form == "html":
            text, policy = _page()
            return Response(text, headers=_page_fields(policy))
        ledger = await journal.ledger()
        now = time.time()
        hour = int(now) // HOUR  # who was lately seen changes though nobody calls
        tag = f'"{process}-{form}-{journal.revision}-{hour}"'
        fields = _fields(form) | {"etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=fields)
        if len(reading) >= AT_ONCE:
            raise Busy(f"{AT_ONCE} others read the ledger, try again shortly")
        if form == "csv":
            fields["content-disposition"] = 'attachment; filename="ledger.csv"'
            return Counted(reading, _unhurried(as_csv(ledger, now), turn), fields)
        return Counted(reading, _unhurried(as_json(ledger, now), turn), fields)

    async def top(_: Request) -> Response:
        # Relative: a proxy in front of us may serve it below a path of its own.
        return RedirectResponse("ledger?format=html", headers={"date": formatdate(usegmt=True)})

    return [Route("/-/", top), Route("/-/ledger", ledger)]


def _form(request: Request) -> Form:
    """The form that ``?format=`` names, else the first in ``Accept``, else JSON."""
    forms: tuple[Form, ...] = get_args(Form)
    asked = request.query_params.get("format")
    if asked is None:
        accepted = request.headers.get("accept", "").lower()
        named = [(accepted.find(form), form) for form in forms if form in accepted]
        return min(named)[1] if named else "json"
    for form in forms:
        if asked == form:
            return form
    raise InvalidRequest(f"format: must be one of {', '.join(forms)}")


def _fields(form: Form) -> dict[str, str]:
    return {
        "content-type": _MEDIA_TYPES[form],
        "cache-control": "no-cache",
        "vary": "accept",
        "x-content-type-options": "nosniff",
        "date": formatdate(usegmt=True),
    }


def _page_fields(policy: str) -> dict[str, str]:
    return _fields("html") | {
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
    }


@cache
def _page() -> tuple[bytes, str]:
    """The page, and its policy: its own style and script by hash, requests to its own origin."""
    text = FILE.read_bytes()
    policy = {
        "default-src": "'none'",
        "style-src": _hash(text, b"style"),
        "script-src": _hash(text, b"script"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return text, "; ".join(f"{name} {value}" for name, value in policy.items())


def _hash(text: bytes, element: bytes) -> str:
    """The CSP hash of what the only ``element`` of its name in the page contains."""
    (held,) = re.findall(rb"<%b>(.*?)</%b>" % (element, element), text, re.DOTALL)
    return f"'sha256-{b64encode(sha256(held).digest()).decode()}'"


async def _unhurried(parts: Iterator[bytes], turn: asyncio.Lock) -> AsyncGenerator[bytes]:
    """The parts, one for each turn of the event loop, however many clients read at once."""
    while True:
        async with turn:
            part = next(parts, None)
            await asyncio.sleep(0)
        if part is None:
            return
        yield part
