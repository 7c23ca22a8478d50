"""What a run of chaos found: how often each was done, how long it took, what was wrong."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Found:
    """The counts, times and violations of one figure."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self.violations: list[str] = []
        self.missed: list[str] = []

    def check(self, holds: bool, said: str) -> None:
        """Notes a violation where something does not hold."""
        if not holds:
            self.violations.append(said)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Notes how long its body took."""
        began = time.perf_counter()
        yield
        self.times[name].append(time.perf_counter() - began)

    def within(self, name: str, part: float, most: float) -> None:
        """Notes a goal that is missed; that depends on the machine, so it is no violation."""
        times = sorted(self.times[name])
        if len(times) * (1 - part) >= 1:
            value = times[int(len(times) * part)]
            said = f"{name}: {part:.0%} within {value * 1e3:.1f} ms, not {most * 1e3:g} ms"
            if value > most:
                self.missed.append(said)

    def lines(self) -> list[str]:
        """All of it, as text."""
        said = [f"  {name}: {number}" for name, number in sorted(self.counts.items())]
        for name, times in sorted(self.times.items()):
            times = sorted(times)
            p50, p99 = times[len(times) // 2] * 1e3, times[int(len(times) * 0.99)] * 1e3
            said.append(f"  {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms of {len(times)}")
        said += [f"  over the goal: {text}" for text in self.missed]
        return said + [f"  VIOLATION {text}" for text in self.violations]
