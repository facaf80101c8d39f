"""Which SDK calls what on which road, and what it asks there: the matrix and its jobs.

A scenario is told to the upstream by a marker in the question, see ``proxy/sandbox``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from matrix.sdks import OLD_SDKS, SDKS, Sdk
from matrix.stand_ins import (
    AT_FIRST,
    BRIDGED,
    COMPLETIONS_ONLY,
    KEYS,
    MIDDLE,
    NEWEST,
    OLDEST,
    UNMIGRATED,
    OpenRoad,
    Road,
)
from packages.places import Place

Json = dict[str, Any]

MODEL, OLD_MODEL = "claude-haiku-4-5-20251001", "claude-2.1"

MESSAGES = ("messages.create", "messages.create+stream", "messages.stream")
COMPLETIONS = ("completions.create", "completions.create+stream")
OLD_CALLS = {"py": ("completion", "completion_stream"), "js": ("complete", "completeStream")}
STREAMS = (
    *("messages.create+stream", "messages.stream", "completions.create+stream"),
    *("completion_stream", "completeStream"),
)
COUNT, MODELS = "messages.count_tokens", "models.list"


@dataclass(frozen=True, slots=True)
class Cell:
    """One call of one SDK on one road."""

    sdk: Sdk
    road: Road
    call: str

    def __str__(self) -> str:
        return f"{self.sdk}-{self.call}-{self.road}"

    @property
    def places(self) -> tuple[Place, ...]:
        return self.sdk.places

    @property
    def completes(self) -> bool:
        return not self.call.startswith(("messages.", "models."))

    @property
    def streams(self) -> bool:
        return self.call in STREAMS

    @property
    def translated(self) -> bool:
        """Whether the proxy has to read the answer, and make another of it."""
        return self.road is OLDEST or (self.completes and self.road.bridge)

    def key(self, scenario: str) -> str:
        """A key that no other call has."""
        return f"{SCENARIOS[scenario].keys}{self}-{scenario}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One call: what is asked, and what of the usual is different."""

    ask: str = "Say hello to 2026!"
    asked: Json = field(default_factory=dict)
    more: Json = field(default_factory=dict)
    """Sampling parameters, which some SDKs have and others let pass."""
    tokens: int = 200
    keys: str = KEYS
    retries: int = 0


SCENARIOS = {
    "answer": Scenario(),
    "stop_sequences": Scenario(asked={"stop_sequences": ["sandbox"]}),
    "max_tokens": Scenario(tokens=5),
    "temperature": Scenario(more={"temperature": 0.5}),
    "overloaded": Scenario("[sandbox:fail=overloaded] Go!"),
    "rate_limit": Scenario("[sandbox:fail=rate_limit] Go!"),
    "error_mid": Scenario("[sandbox:fail=error_mid] Go!"),
    "invalid": Scenario(tokens=0),
    "unauthorized": Scenario(keys="sk-stolen-"),
    "again": Scenario(f"{AT_FIRST} Go!", retries=1),
    "of_2023": Scenario(asked={"temperature": 0.5, "top_k": -1, "top_p": -1, "tags": {}}),
    "gone": Scenario(more={"temperature": 0.5}),
}

_GENERATING = [name for name in SCENARIOS if name not in ("temperature", "of_2023", "gone")]


def _roads(sdk: Sdk) -> tuple[Road, ...]:
    """Those that have Messages."""
    if sdk.sends == "bearer":
        return (OLDEST, MIDDLE, NEWEST, UNMIGRATED)
    return (OLDEST, MIDDLE, NEWEST)


def _cells() -> list[Cell]:
    messages = [Cell(sdk, road, call) for sdk in SDKS for road in _roads(sdk) for call in MESSAGES]
    completions = [
        Cell(sdk, road, call)
        for sdk in SDKS
        if sdk.completions
        for road in (OLDEST, MIDDLE, BRIDGED, NEWEST)
        for call in COMPLETIONS
    ]
    return [*messages, *completions]


CELLS = _cells()
"""Where text is generated."""

SIDE_CELLS = [
    Cell(sdk, road, call)
    for sdk in SDKS
    for road in _roads(sdk)
    if road is not OLDEST  # which has neither
    for call in (COUNT, MODELS)
]
"""Where none is."""

LOST_CELLS = [Cell(sdk, COMPLETIONS_ONLY, call) for sdk in SDKS for call in MESSAGES]
"""Where the upstream cannot serve what is asked."""


OLD_CELLS = [
    Cell(sdk, road, call)
    for sdk in OLD_SDKS
    for road in (OLDEST, MIDDLE, BRIDGED, NEWEST)
    for call in OLD_CALLS[sdk.language]
]
"""Where text is generated for a program of early 2023."""


def scenarios(cell: Cell) -> list[str]:
    """What is asked in a cell."""
    if cell in OLD_CELLS:
        return ["answer", "of_2023", "error_mid", "overloaded"]
    if cell not in CELLS:
        return ["answer"]
    return [
        *_GENERATING,
        *(["temperature"] if cell.sdk.sampling else []),
        *(["gone"] if not cell.sdk.sampling and cell.road is NEWEST else []),
    ]


def jobs(sdk: Sdk, open_roads: dict[Road, OpenRoad]) -> dict[str, Json]:
    """All jobs of one SDK, by their keys."""
    return {
        cell.key(name): {
            "call": cell.call,
            "url": open_roads[cell.road].address,
            "key": cell.key(name),
            "retries": SCENARIOS[name].retries,
            "asked": _asked(cell, SCENARIOS[name]),
            "unknown": {} if sdk.names_sampling else SCENARIOS[name].more,
        }
        for cell in (*CELLS, *SIDE_CELLS, *LOST_CELLS, *OLD_CELLS)
        if cell.sdk is sdk
        for name in scenarios(cell)
    }


def _asked(cell: Cell, scenario: Scenario) -> Json:
    if cell.call == MODELS:
        return {}
    turns = {"model": MODEL, "messages": [{"role": "user", "content": scenario.ask}]}
    if cell.call == COUNT:
        return turns
    if cell.completes:
        prompt = f"\n\nHuman: {scenario.ask}\n\nAssistant:"
        turns = {"model": OLD_MODEL, "prompt": prompt}
        if cell in OLD_CELLS:
            turns["stop_sequences"] = ["\n\nHuman:"]
    limit = "max_tokens_to_sample" if cell.completes else "max_tokens"
    more = scenario.more if cell.sdk.names_sampling else {}
    return {**turns, limit: scenario.tokens, **scenario.asked, **more}
