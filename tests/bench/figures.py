"""What is measured, and the targets. A figure is a function from a Bench to rows.

Targets are ratios wherever there is a peer. Where there is none, they are sizes and times that hold
on any machine that one would run a proxy on.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from . import load, measure
from .load import Outcome, RunFailed, Work
from .report import Bound, Row
from .rounds import Sample, Series, interleaved
from .targets import ROOT, Stage, Target
from .wire import Play

FPL = "fastapi-proxy-lib"
LITELLM = "LiteLLM"
LENGTHS = {100: 40, 1_000: 10, 4_000: 3, 16_000: 1}
"""Lengths of completions, in deltas, and how many of each make up a sample."""

LONGEST = 16_000
CLIENT_RATE = 250_000
"""Bytes per second that the slow client reads."""

KB = 1024
MB = 1024 * 1024
_ALONE_WITHIN = 300
_WARM = Play(2, delay=5)


@dataclass
class Bench:
    """What figures share: the processes, and how thorough to be."""

    stage: Stage
    rounds: int
    quick: bool
    lengths: dict[str, dict[int, float]] = field(default_factory=dict)
    foreign: float = 0.0
    """The largest share of the measured core that other processes took during a run."""

    _warm: set[str] = field(default_factory=set)

    def take(self, name: str) -> Sequence[Row]:
        """Take one figure; unless in a quick run, with freshly started targets."""
        if not self.quick:
            self.stage.clear()
            self._warm.clear()
        return FIGURES[name](self)

    def some(self, thorough: int, quick: int) -> int:
        return quick if self.quick else thorough

    def target(self, name: str, connections: int) -> Target:
        """A target that has opened all connections it will need; raises Unavailable, RunFailed."""
        target = self.stage.target(name)
        if name not in self._warm:
            task = work(target, _WARM, connections=connections, streams=2 * connections)
            load.run(task, self.stage.stamps)
            self._warm.add(name)
        return target

    def fresh(self, name: str) -> AbstractContextManager[Target]:
        return self.stage.fresh(name)

    def spent(
        self, target: Target, task: Work, full: Callable[[], object] | None = None
    ) -> tuple[Outcome, float]:
        """Run ``task``; returns its outcome, and the seconds of CPU time that the target took."""
        core = self.stage.cores.alone
        before = measure.cpu(target.pid) if target.pid else 0.0
        began, busy = time.monotonic(), measure.busy(core)
        outcome = load.run(task, self.stage.stamps, full)
        cpu = measure.cpu(target.pid) - before if target.pid else 0.0
        passed = time.monotonic() - began
        if passed > 1:  # in less, the resolution of 10 ms is too coarse
            self.foreign = max(self.foreign, (measure.busy(core) - busy - cpu) / passed)
        return outcome, cpu


def work(target: Target, play: Play, *, connections: int, streams: int, **more: Any) -> Work:
    """The work of clients that call ``target``."""
    task = Work(
        port=target.port,
        play=play,
        connections=connections,
        streams=streams,
        path=target.path,
        version=target.version,
        headers=target.headers,
    )
    return replace(task, **more)


def beside(
    series: Series, ours: str, key: str, *, title: str, unit: str, peers: Mapping[str, Bound | None]
) -> list[Row]:
    """A figure of ours compared with peers: a row for each."""
    return [
        Row(
            figure=title,
            unit=unit,
            ours=series.median(ours, key),
            peer=peer,
            theirs=series.median(peer, key),
            ratio=series.ratio(ours, peer, key),
            bound=bound,
            why=why(series, ours, peer),
        )
        for peer, bound in peers.items()
    ]


def why(series: Series, *names: str) -> list[str]:
    return [f"{name}: {series.missing[name]}" for name in names if name in series.missing]


def by_itself(series: Series, ours: str, key: str, *, title: str, unit: str, most: float) -> Row:
    """A figure of ours that is compared with a fixed bound."""
    bound = Bound("≤", most, absolute=True)
    return Row(title, unit, series.median(ours, key), bound=bound, why=why(series, ours))


def paced(bench: Bench) -> list[Row]:
    """CPU and latency of each event at the pace of a model: 60 streams, a delta each 20 ms"""
    play = Play(bench.some(50, 25), delay=20)
    streams = bench.some(120, 60)

    def sample(name: str) -> Sample:
        target = bench.target(name, 60)
        settings = {"stamped": True, "spread": 1.0, "settle": 0.1}
        task = work(target, play, connections=60, streams=streams, **settings)
        outcome, cpu = bench.spent(target, task)
        return {
            "cpu_us": cpu * 1e6 / (streams * play.deltas),
            "lag_us": statistics.median(outcome.lags),
            "first_us": statistics.median(outcome.firsts),
        }

    names = ["direct", "nginx", "native", "bridge", "pass", FPL, "naive", LITELLM]
    series = interleaved(names, bench.rounds, sample)
    series.added("direct", "lag_us", "added_us")
    series.added("direct", "first_us", "added_first_us")
    peers = {
        "nginx": Bound("≤", 2.0),
        FPL: Bound("≤", 0.35),
        LITELLM: Bound("≤", 0.15),
        "naive": None,
    }
    later, first = {"nginx": Bound("≤", 2.0), FPL: None}, {"nginx": Bound("≤", 2.5), FPL: None}
    bridge, through = {"native": Bound("≤", 1.15)}, {"nginx": Bound("≤", 1.8), FPL: None}
    return [
        *beside(
            series, "native", "cpu_us", title="CPU per event, translated", unit="µs", peers=peers
        ),
        *beside(
            series,
            "bridge",
            "cpu_us",
            title="CPU per event, over the bridge",
            unit="µs",
            peers=bridge,
        ),
        *beside(
            series,
            "pass",
            "cpu_us",
            title="CPU per event, passed through",
            unit="µs",
            peers=through,
        ),
        *beside(
            series,
            "native",
            "added_us",
            title="latency added to an event, p50",
            unit="µs",
            peers=later,
        ),
        *beside(
            series,
            "native",
            "added_first_us",
            title="added to the first event, p50",
            unit="µs",
            peers=first,
        ),
    ]


def setup(bench: Bench) -> list[Row]:
    """CPU that a stream takes before its first delta: the rest of a line through two lengths"""
    short, long = 2, bench.some(201, 50)

    def cost(target: Target, deltas: int, streams: int) -> float:
        play = Play(deltas, delay=20)
        spread = deltas * play.delay / 1000
        task = work(target, play, connections=60, streams=streams, spread=spread)
        return bench.spent(target, task)[1] * 1e6 / streams

    def sample(name: str) -> Sample:
        target = bench.target(name, 60)
        brief = cost(target, short, bench.some(300 if name == FPL else 1200, 120))
        slope = (cost(target, long, 60) - brief) / (long - short)
        return {"stream_us": brief - short * slope, "delta_us": slope}

    series = interleaved(["nginx", "native", "bridge", FPL], bench.rounds, sample)
    peers = {FPL: Bound("≤", 0.06), "nginx": None}
    return [
        *beside(
            series,
            "native",
            "stream_us",
            title="CPU per stream, before its deltas",
            unit="µs",
            peers=peers,
        ),
        *beside(
            series,
            "bridge",
            "stream_us",
            title="the same over the bridge",
            unit="µs",
            peers={FPL: None},
        ),
    ]


def requests(bench: Bench) -> list[Row]:
    """Requests without a stream that one core serves in a second"""

    def sample(name: str) -> Sample:
        target = bench.target(name, 20)
        count = bench.some(400, 100) if name in (FPL, LITELLM) else bench.some(6000, 2000)
        task = work(target, Play(50), connections=20, streams=count, stream=False)
        return {"per_second": count / bench.spent(target, task)[1]}

    series = interleaved(["nginx", "native", "bridge", FPL, LITELLM], bench.rounds, sample)
    peers = {FPL: Bound("≥", 12), LITELLM: Bound("≥", 60), "nginx": None}
    title = "requests without a stream, by CPU second"
    return [
        *beside(series, "native", "per_second", title=title, unit="/s", peers=peers),
        *beside(
            series,
            "bridge",
            "per_second",
            title="the same over the bridge",
            unit="/s",
            peers={FPL: None},
        ),
    ]


def burst(bench: Bench) -> list[Row]:
    """Deltas per second when the upstream does not wait: 10 streams of 300 at a time"""
    play, streams = Play(300), bench.some(200, 100)

    def sample(name: str) -> Sample:
        target = bench.target(name, 10)
        outcome, cpu = bench.spent(target, work(target, play, connections=10, streams=streams))
        deltas = streams * play.deltas
        return {"per_second": deltas / outcome.seconds, "cpu_us": cpu * 1e6 / deltas}

    series = interleaved(["direct", "nginx", "native", "bridge"], bench.rounds, sample)
    peers = {"nginx": Bound("≥", 0.8), "direct": None}
    return beside(
        series, "native", "per_second", title="deltas per second in a burst", unit="/s", peers=peers
    )


def length(bench: Bench) -> list[Row]:
    """CPU of one completion of 100 to 16,000 deltas, flat out, every snapshot sent"""
    longest = bench.some(LONGEST, 4_000)
    lengths = {deltas: most for deltas, most in LENGTHS.items() if deltas <= longest}

    def sample(name: str) -> Sample:
        if name == "alone":
            return _alone(bench, lengths)
        target = bench.target(name, 1)
        costs = {}
        for deltas, most in lengths.items():
            streams = bench.some(most, 1 + most // 5)
            task = work(target, Play(deltas), connections=1, streams=streams)
            costs[f"{deltas}"] = bench.spent(target, task)[1] * 1000 / streams
        return costs

    series = interleaved(["native", "naive", "alone"], bench.rounds, sample)
    for title, name, prefix in (
        ("naive", "naive", ""),
        ("ours", "native", ""),
        ("ours, translation alone", "alone", "translation_"),
        ("a copy of the bytes", "alone", "copy_"),
    ):
        points = ((deltas, series.median(name, f"{prefix}{deltas}")) for deltas in lengths)
        bench.lengths[title] = {point: value for point, value in points if value is not None}
    title = f"CPU of one completion of {longest:,} deltas"
    wanted = longest == LONGEST
    ends = {"naive": Bound("≤", 1 / 6) if wanted else None}
    return [
        *beside(series, "native", f"{longest}", title=title, unit="ms", peers=ends),
        Row(
            "the same, translation alone",
            "ms",
            series.median("alone", f"translation_{longest}"),
            peer="a copy of the bytes",
            theirs=series.median("alone", f"copy_{longest}"),
            ratio=series.median("alone", "ratio"),
            bound=Bound("≤", 2.0) if wanted else None,
            why=why(series, "alone"),
        ),
    ]


def _alone(bench: Bench, lengths: Iterable[int]) -> Sample:
    """The translation without sockets; see the module of that name."""
    words = [sys.executable, "-m", "tests.bench.alone", *map(str, lengths)]
    samples = ["--samples", str(bench.some(3, 1))]
    cores = bench.stage.cores
    with cores.on(cores.alone):
        try:
            done = subprocess.run(
                [*words, *samples],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
                timeout=_ALONE_WITHIN,
            )
        except subprocess.CalledProcessError as error:
            raise RunFailed(error.stderr.strip().splitlines()[-1]) from error
        except subprocess.TimeoutExpired as error:
            raise RunFailed(f"not done within {_ALONE_WITHIN} s") from error
    found = json.loads(done.stdout)
    most = found[f"{max(lengths)}"]
    sample = {"ratio": most["translation_ms"] / most["copy_ms"]}
    for deltas, costs in found.items():
        sample[f"translation_{deltas}"] = costs["translation_ms"]
        sample[f"copy_{deltas}"] = costs["copy_ms"]
        sample[f"bytes_{deltas}"] = costs["bytes"]
    return sample


def latest(bench: Bench) -> list[Row]:
    """16,000 deltas, flat out, to a client that reads slowly, where the latest text is enough"""
    deltas = bench.some(LONGEST, 4_000)

    def sample(name: str) -> Sample:
        with bench.fresh(name) as target:
            base = _settled(bench, target)
            settings = {"rate": CLIENT_RATE * bench.some(1, 4), "every": False}
            task = work(target, Play(deltas), connections=1, streams=1, **settings)
            outcome, cpu = bench.spent(target, task)
            assert target.pid
            return {
                "sent_mb": outcome.size / MB,
                "over_mb": (measure.peak(target.pid) - base) / MB,
                "seconds": outcome.seconds,
                "cpu_ms": cpu * 1000,
            }

    series = interleaved(["latest"], bench.rounds, sample)
    title = f"{deltas:,} deltas to a slow client, latest only"
    return [
        by_itself(series, "latest", "sent_mb", title=f"{title}: sent", unit="MB", most=6),
        by_itself(
            series, "latest", "over_mb", title="the same: peak memory over base", unit="MB", most=8
        ),
        by_itself(
            series, "latest", "seconds", title="the same: until the last text", unit="s", most=30
        ),
    ]


def flood(bench: Bench) -> list[Row]:
    """Peak memory under 4 streams of 16,000 deltas at once, flat out, every snapshot sent"""

    def sample(name: str) -> Sample:
        with bench.fresh(name) as target:
            base = _settled(bench, target)
            task = work(target, Play(LONGEST), connections=4, streams=4)
            outcome, _ = bench.spent(target, task)
            assert target.pid
            return {
                "over_mb": (measure.peak(target.pid) - base) / MB,
                "sent_mb_per_s": outcome.size / MB / outcome.seconds,
            }

    series = interleaved(["native"], bench.rounds, sample)
    title = f"peak memory over base, 4 times {LONGEST:,} deltas"
    return [by_itself(series, "native", "over_mb", title=title, unit="MB", most=32)]


def _settled(bench: Bench, target: Target) -> int:
    """The resident size of a process that has worked, from which its peak counts on."""
    every = target.name != "latest"
    task = work(target, Play(300), connections=10, streams=40, every=every)
    load.run(task, bench.stage.stamps)
    assert target.pid
    measure.forget_peak(target.pid)
    return measure.resident(target.pid)


def crowd(bench: Bench) -> list[Row]:
    """Memory and first events of 2,000 slow streams at once: a delta per second each"""
    streams = bench.some(2000, 500)
    play = Play(bench.some(10, 3), delay=1000)

    def sample(name: str) -> Sample:
        with bench.fresh(name) as target:
            assert target.pid
            earlier = Play(3, delay=400)  # a heap that has never grown would count as streams
            task = work(target, earlier, connections=500, streams=500, spread=0.5)
            load.run(task, bench.stage.stamps)
            time.sleep(0.5)  # memory is freed at some time after the answers, without notice
            base, pid = measure.share(target.pid), target.pid
            open_now: list[int] = []
            task = work(target, play, connections=streams, streams=streams, spread=streams / 400)
            outcome, cpu = bench.spent(target, task, lambda: open_now.append(measure.share(pid)))
            first = statistics.quantiles(outcome.firsts, n=100)
            return {
                "stream_kb": (open_now[0] - base) / streams / KB,
                "first_p50_ms": first[49] / 1000,
                "first_p99_ms": first[98] / 1000,
                "cpu_us": cpu * 1e6 / (streams * play.deltas),
            }

    series = interleaved(["native"], bench.rounds, sample)
    title = f"memory of each of {streams:,} slow streams"
    return [
        by_itself(series, "native", "stream_kb", title=title, unit="KB", most=12),
        by_itself(
            series, "native", "first_p99_ms", title="the same: first event, p99", unit="ms", most=50
        ),
    ]


FIGURES: Mapping[str, Callable[[Bench], Sequence[Row]]] = {
    figure.__name__: figure
    for figure in (paced, setup, requests, burst, length, latest, flood, crowd)
}
