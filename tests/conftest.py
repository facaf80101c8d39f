"""How tests run: properties without a deadline, servers without a pause, what they need beside."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn.server
from hypothesis import HealthCheck, settings
from installed import Installed, installing, needed

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


@pytest.fixture(autouse=True, scope="session")
def lines_that_are_written_as_one() -> Iterator[None]:
    """Plain asyncio serves on Windows alone, where it joins the lines that it is to write.

    Elsewhere Pythons 3.12.0 to 3.12.8, 3.13.0 and 3.13.1 have nobody wait who writes them for a
    slow client (CVE-2024-12254): an endless answer would fill the memory of the machine.
    """
    with pytest.MonkeyPatch.context() as patch:
        transport = "asyncio.selector_events._SelectorSocketTransport"
        patch.setattr(f"{transport}.writelines", asyncio.WriteTransport.writelines)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those for which something has to be installed come last: it is, while the others run."""
    items.sort(key=lambda item: any(needed([item])))


@pytest.fixture(autouse=True, scope="session")
def installed(request: pytest.FixtureRequest) -> Iterator[Installed]:
    """What the tests of this run need."""
    with installing(needed(request.session.items)) as them:
        yield them
