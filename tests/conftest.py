"""How tests run: properties without a deadline, servers without a pause at their end."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn.server
from hypothesis import HealthCheck, settings

settings.register_profile(
    "proxy",
    deadline=None,  # for no test may depend on how fast a machine is
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("proxy")


class _Hasty:
    """asyncio for a module that polls, whose sleeps are a hundredth of what they were."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay / 100)


@pytest.fixture(autouse=True, scope="session")
def servers_that_stop_at_once() -> Iterator[None]:
    """A server within the process of the tests stops without the pause that uvicorn makes then.

    It is a tenth of a second, which hundreds of tests would wait for. Nothing depends on it; the
    processes that the tests start make it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uvicorn.server, "asyncio", _Hasty())
        yield
