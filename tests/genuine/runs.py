"""Where clients are run: each on either road, all of its scenarios at once; and who looks at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from genuine import roads
from genuine.old_clients import OldClient, Outcome, Report
from packages.places import Place

ROADS = ("native", "bridge")


@dataclass(frozen=True, slots=True)
class Run:
    """One client on one road: the road, what it was asked by this client, and what came of it."""

    road: roads.Road
    asked: list[str]
    jobs: int
    report: Report


RunOf = Callable[[OldClient, str], Run]


@dataclass(frozen=True, slots=True)
class Way:
    """One method of one client on one road."""

    client: OldClient
    road: str
    method: str

    def __str__(self) -> str:
        return f"{self.client}-{self.method}-{self.road}"

    @property
    def places(self) -> tuple[Place, ...]:
        return self.client.places


@dataclass(frozen=True, slots=True)
class Caller:
    """A program that calls one method of its client."""

    way: Way
    report: Report

    def saw(self, scenario: str) -> Outcome:
        """What the program saw in a scenario."""
        outcomes = self.report.outcomes
        name = f"{scenario}/{self.way.method}"
        assert name in outcomes, f"nothing came of it:\n{self.report.stderr}"
        return outcomes[name]

    def read(self, scenario: str) -> Any:
        """The result that the program went on with."""
        outcome = self.saw(scenario)
        assert outcome.error is None
        assert outcome.result is not None
        return outcome.result

    def stream(self, scenario: str) -> list[Any]:
        """All events of a stream, the last with them."""
        outcome = self.saw(scenario)
        return [*outcome.events, *([outcome.result] if self.way.client.quirks.hides_last else [])]


def caller(run_of: RunOf, way: Way) -> Caller:
    return Caller(way, run_of(way.client, way.road).report)


def whole_ways(clients: tuple[OldClient, ...]) -> list[Way]:
    return [Way(c, road, method) for c in clients for road in ROADS for method in c.wholes]


def stream_ways(clients: tuple[OldClient, ...]) -> list[Way]:
    return [Way(c, road, method) for c in clients for road in ROADS for method in c.streams]
