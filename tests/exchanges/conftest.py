"""The log of exchanges, for tests to wait for its lines."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from exchanges.harness import Exchanges


@pytest.fixture
async def log(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Exchanges]:
    """The proxy's log of exchanges."""
    caplog.set_level(logging.INFO)
    handler = Exchanges()
    logger = logging.getLogger("proxy.exchanges")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
