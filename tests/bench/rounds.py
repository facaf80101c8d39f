"""Interleaved samples, and the ratios between them.

The speed of a machine changes by the minute, with its clock rate and its neighbours. So each round
measures all targets one after the other, and begins with another one each time. Ratios are taken
within a round; their median is taken over the rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .load import RunFailed
from .report import say, shown
from .targets import Unavailable

Sample = dict[str, float]


@dataclass
class Series:
    """The samples of each target by round, and why some have none."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def median(self, name: str, key: str) -> float | None:
        values = [sample[key] for sample in self.samples.get(name, ()) if key in sample]
        return statistics.median(values) if values else None

    def ratio(self, name: str, other: str, key: str) -> float | None:
        """The median of the ratios of each round."""
        pairs = zip(self.samples.get(name, ()), self.samples.get(other, ()), strict=False)
        ratios = [mine[key] / theirs[key] for mine, theirs in pairs if theirs.get(key)]
        return statistics.median(ratios) if ratios else None

    def added(self, base: str, key: str, name: str) -> None:
        """Tell each sample, by ``name``, how much its ``key`` is above that of ``base`` then."""
        for target, samples in self.samples.items():
            if target == base:
                continue
            for sample, beside in zip(samples, self.samples.get(base, ()), strict=False):
                sample[name] = sample[key] - beside[key]


def interleaved(names: Sequence[str], rounds: int, measure: Callable[[str], Sample]) -> Series:
    """Measure every target in every round. One that fails once has no figure at all."""
    series = Series()
    for number in range(rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            if name in series.missing:
                continue
            try:
                sample = measure(name)
            except (RunFailed, Unavailable) as error:
                series.missing[name] = str(error)
                series.samples.pop(name, None)
                say(f"    {name}: {error}", aside=True)
                continue
            series.samples.setdefault(name, []).append(sample)
            values = ", ".join(f"{key} {shown(value)}" for key, value in sample.items())
            say(f"    round {number + 1}, {name}: {values}", aside=True)
    return series
