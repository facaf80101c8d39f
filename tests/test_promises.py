"""The numbers in README's "What it withstands" are those that the code goes by.

That each is heeded is tested where it belongs, often with a smaller one, so as not to wait.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config import Timeouts
from proxy.connection import patience, terms
from proxy.core import change
from proxy.exchange import exchange, guard
from proxy.formats import message_so_far
from proxy.translation import translation
from proxy.upstream import upstream

README = (Path(__file__).parent.parent / "README.md").read_text()
PROMISED = " ".join(README.partition("## What it withstands\n")[2].partition("\n## ")[0].split())

KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.parametrize(
    ("told", "true"),
    [
        ("A head must arrive within 20 seconds", terms.HEAD_WITHIN == 20),
        ("A body must not pause for 30 seconds", terms.BODY_SILENCE == 30),
        ("nor take longer than 60 seconds", terms.BODY_WITHIN == 60),
        ("plus one for each KiB of it (408)", terms.SLOWEST_BODY == KIB),
        ("200 fields (431)", terms.FIELDS == 200),
        ("300,000 values (400)", translation.MOST_VALUES == 300_000),
        ("the client must take 64 KiB of it", patience.ENOUGH == 64 * KIB),
        ("16 MiB of all clients wait", terms.WAITING == 16 * MIB),
        ("that came through this proxy five times", guard.ROUNDS == 5),
        ("(`timeouts.total`, one hour by default)", Timeouts().total == 60 * 60),
        ("to remember more than 16 MiB", change.LARGEST_ANSWER == 16 * MIB),
        ("holds at most 300,000 values", message_so_far.MOST_VALUES == 300_000),
        ("uploads up to 64 KiB are", exchange.RESENDABLE == 64 * KIB),
        ("connection that was idle for a second", upstream.FRESH == 1),
    ],
)
def test_a_number_that_is_promised_is_the_one_that_counts(told: str, *, true: bool) -> None:
    assert told in PROMISED
    assert true
