"""How tests run: hypothesis without deadlines, servers that stop at once, packages to install."""

import asyncio
import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn.server
from hypothesis import HealthCheck, settings

from packages.installed import Installed, installing, needed

settings.register_profile(
    "proxy",
    deadline=None,  # since no test may depend on the speed of the machine
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("proxy")


class _Hasty:
    """The module asyncio, except that sleeps take only a hundredth of their time."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay / 100)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of coroutine tests: asyncio's own, unless a file says otherwise."""
    return "asyncio"


@pytest.fixture(autouse=True, scope="session")
def servers_that_stop_at_once() -> Iterator[None]:
    """Shorten the tenth of a second that uvicorn pauses when it stops.

    Hundreds of tests would wait for it. Nothing depends on it, and the processes that the tests
    start still have it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uvicorn.server, "asyncio", _Hasty())
        yield


@pytest.fixture(autouse=True, scope="session")
def lines_that_are_written_as_one() -> Iterator[None]:
    """Have asyncio's sockets join the lines that they write, as they do on Windows.

    The proxy serves on uvloop; only the demo and these tests run on plain asyncio, too. Pythons
    3.12.0 to 3.12.8, 3.13.0 and 3.13.1 apply no back-pressure to ``writelines`` (CVE-2024-12254):
    in a test on asyncio, an endless answer to a slow client would fill the machine's memory.
    """
    with pytest.MonkeyPatch.context() as patch:
        transport = "asyncio.selector_events._SelectorSocketTransport"
        patch.setattr(f"{transport}.writelines", asyncio.WriteTransport.writelines)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that need packages last: these are installed while the others run."""
    items.sort(key=lambda item: any(needed([item])))


def pytest_collection_finish() -> None:
    """Keep what was collected out of the garbage collector's sight.

    There are eleven thousand tests, and many of them collect garbage to see what is left behind.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def installed(request: pytest.FixtureRequest) -> Iterator[Installed]:
    """The packages that the tests of this run need."""
    with installing(needed(request.session.items)) as them:
        yield them
