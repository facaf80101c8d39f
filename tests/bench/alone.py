"""The translation without sockets, compared with merely copying the same bytes: the lower bound.

Every event must be passed on, so its bytes are copied at least once. Runs as a process of its own,
so that nothing else is on the heap. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from proxy.translation.translation import Translation

from . import wire

_READ = 64 * 1024
"""The most that one read of a socket returns."""

_LEAST = 0.1
"""Seconds that a sample takes at least, so that the resolution of the clock is enough."""


def translated(request: bytes, chunks: Sequence[bytes]) -> Iterator[bytes]:
    translation = Translation("2023-01-01", "2023-06-01")
    translation.request("/v1/complete", request)
    stream = translation.stream()
    for chunk in chunks:
        yield from stream.feed(chunk)
    yield from stream.finish()


def sizes(pieces: Iterable[bytes]) -> list[int]:
    """The sizes of the events, wherever the pieces were cut."""
    found = []
    rest = b""
    for piece in pieces:
        *events, rest = (rest + piece if rest else bytes(piece)).split(wire.END)
        found += [len(event) + len(wire.END) for event in events]
    return found


def copied(source: bytes, lengths: Sequence[int]) -> None:
    """Copy so many bytes each time, as a slice of bytes does."""
    for length in lengths:
        source[:length]


def milliseconds(work: Callable[[], object]) -> float:
    """The CPU time of one call of ``work``."""
    turns = 0
    began = time.process_time()
    while (spent := time.process_time() - began) < _LEAST or not turns:
        work()
        turns += 1
    return spent / turns * 1000


def compare(deltas: int, samples: int) -> dict[str, float]:
    """The cost of one completion, translated and copied."""
    request = wire.prompt_body(wire.Play(deltas), stream=True)
    body = wire.stream_bytes(deltas)
    chunks = [body[at : at + _READ] for at in range(0, len(body), _READ)]
    lengths = sizes(translated(request, chunks))
    if len(lengths) != deltas + 2:
        raise ValueError(f"{len(lengths)} events instead of {deltas + 2}")
    source = b"x" * (max(lengths) + 1)  # a slice of all bytes would be no copy

    def translate() -> None:
        for _ in translated(request, chunks):
            pass

    ours, copies = [], []
    for _ in range(samples):
        ours.append(milliseconds(translate))
        copies.append(milliseconds(lambda: copied(source, lengths)))
    return {
        "translation_ms": statistics.median(ours),
        "copy_ms": statistics.median(copies),
        "bytes": sum(lengths),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.alone", description=__doc__)
    parser.add_argument("deltas", type=int, nargs="+")
    parser.add_argument("--samples", type=int, default=3)
    options = parser.parse_args()
    gc.freeze()
    json.dump({deltas: compare(deltas, options.samples) for deltas in options.deltas}, sys.stdout)


if __name__ == "__main__":
    main()
