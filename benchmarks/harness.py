"""Runs a case beside its baseline, in turns and in one process, and prints the ratio.

A single duration says little on a machine that others use; the ratio of two that took turns
says how much a thing costs beside what nobody can avoid. Each repeat gives one ratio, and the
table has their median.

    compare("a kernel", [Case("add1", add_many, "bare call", call_many, goal=4)])
    await compare_async("a call", [Case("echo", echo_many, "bare echo", bare_many)])

`figures` prints what is no ratio, such as memory, beside its goal. `take_turns` is for calls of
which the percentiles are asked for: each is timed, and all who take part have a turn in every
round, the first of them being what the others are divided by.

    standings("a call", await take_turns([Contender("bare", echo), Contender("ours", call)]))

What is run takes a number and does its work that often; it may be async. What only computes is
best measured with `clock=time.process_time`, which does not count the time that others had.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from statistics import median, quantiles
from typing import TypeAlias

Run: TypeAlias = Callable[[int], Awaitable[object] | object]
Clock: TypeAlias = Callable[[], float]


@dataclass(frozen=True)
class Setup:
    """Something to run that has to be made anew each time, which is not measured.

    Attributes:
        make: makes what is run.
        count: how often it then does its work in one turn.
    """

    make: Callable[[], Run]
    count: int


@dataclass(frozen=True)
class Case:
    """Something to measure, and what to measure it by.

    Attributes:
        name: of the case.
        run: does it the given number of times.
        baseline: the name of the baseline.
        run_baseline: does the baseline as often.
        goal: the ratio that it should not exceed; None where there is none.
    """

    name: str
    run: Run | Setup
    baseline: str
    run_baseline: Run | Setup
    goal: float | None = None


@dataclass(frozen=True)
class Row:
    """What was measured: medians, in seconds for one time, and of the ratios."""

    case: Case
    seconds: float
    baseline_seconds: float
    ratio: float


@dataclass(frozen=True)
class Figure:
    """A number that stands for itself, and the most that it should be."""

    name: str
    value: float
    unit: str
    goal: float | None = None


def figures(title: str, rows: Sequence[Figure]) -> None:
    """Prints numbers as a table."""
    print(f"{title:44} {'':>21} {'value':>7} {'goal':>6}")
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal:g}"
        mark = _mark(row.value, row.goal)
        print(f"  {row.name:42} {row.unit:>21} {row.value:>7.1f} {goal:>6}{mark}")


@dataclass(frozen=True)
class Contender:
    """Something to call beside others.

    Attributes:
        name: of it.
        call: does it once; may be async.
        goal: the ratio that it should not exceed; None where there is none.
        per: how much one call does; its time is divided by that.
    """

    name: str
    call: Callable[[], Awaitable[object] | object]
    goal: float | None = None
    per: int = 1


@dataclass(frozen=True)
class Standing:
    """What was measured of one.

    Attributes:
        contender: whose it is.
        p50: seconds.
        p99: seconds.
        ratio: of the medians of a round; the median over the rounds.
        quiet: of the 10th percentiles: those calls had the cores for themselves.
    """

    contender: Contender
    p50: float
    p99: float
    ratio: float
    quiet: float


async def take_turns(
    contenders: Sequence[Contender], *, rounds: int = 20, count: int = 50
) -> list[Standing]:
    """Calls each `count` times in each of the rounds; the first is the baseline of all."""
    for each in contenders:
        await _call_often(each, 2 * count)  # warm
    times: dict[str, list[list[float]]] = {each.name: [] for each in contenders}
    gc.collect()
    gc.freeze()
    try:
        for _ in range(rounds):
            gc.collect()
            for each in contenders:
                times[each.name].append(await _call_often(each, count))
    finally:
        gc.unfreeze()
    base = times[contenders[0].name]
    return [standing(each, times[each.name], base) for each in contenders]


def standing(
    contender: Contender, turns: Sequence[Sequence[float]], base: Sequence[Sequence[float]]
) -> Standing:
    """From the times of each turn, and those of the baseline in the same rounds."""
    every = _percentiles(turns)
    pairs = zip(turns, base, strict=True)
    ratio = median(median(turn) / median(other) for turn, other in pairs)
    return Standing(contender, every[49], every[98], ratio, every[9] / _percentiles(base)[9])


def _percentiles(turns: Sequence[Sequence[float]]) -> list[float]:
    return quantiles((time for turn in turns for time in turn), n=100, method="inclusive")


def standings(title: str, rows: Sequence[Standing]) -> None:
    """Prints them as a table."""
    print(f"{title:44} {'p50':>10} {'p99':>10} {'ratio':>7} {'quiet':>7} {'goal':>6}")
    for row in rows:
        goal = "" if row.contender.goal is None else f"{row.contender.goal:g}"
        mark = _mark(row.ratio, row.contender.goal)
        print(
            f"  {row.contender.name:42} {_duration(row.p50):>10} {_duration(row.p99):>10}"
            f" {row.ratio:>7.2f} {row.quiet:>7.2f} {goal:>6}{mark}"
        )


async def _call_often(contender: Contender, count: int) -> list[float]:
    call, clock, times = contender.call, time.perf_counter, [0.0] * count
    gc.disable()
    try:
        for n in range(count):
            started = clock()
            running = call()
            if isawaitable(running):
                await running
            times[n] = (clock() - started) / contender.per
    finally:
        gc.enable()
    return times


async def measure(
    case: Case, *, repeats: int = 25, seconds: float = 0.01, clock: Clock = time.perf_counter
) -> Row:
    """Measures one case.

    Args:
        case: what to run.
        repeats: how often case and baseline take turns.
        seconds: about how long one turn of each lasts.
        clock: gives seconds.
    """
    count = await _calibrate(case.run, seconds, clock)
    baseline_count = await _calibrate(case.run_baseline, seconds, clock)
    turns: list[tuple[float, float]] = []
    for _ in range(repeats):
        one = await _timed(case.run, count, clock) / count
        other = await _timed(case.run_baseline, baseline_count, clock) / baseline_count
        turns.append((one, other))
    return Row(
        case,
        median(one for one, _ in turns),
        median(other for _, other in turns),
        median(one / other for one, other in turns),
    )


async def compare_async(
    title: str, cases: Sequence[Case], *, clock: Clock = time.perf_counter
) -> list[Row]:
    """Measures the cases and prints them as a table; returns its rows."""
    rows = [await measure(case, clock=clock) for case in cases]
    print(table(title, rows))
    return rows


def compare(
    title: str, cases: Sequence[Case], *, clock: Clock = time.perf_counter
) -> list[Row]:
    """The same where no loop runs."""
    return asyncio.run(compare_async(title, cases, clock=clock))


def table(title: str, rows: Sequence[Row]) -> str:
    """The rows as text, with the goal of each beside its ratio."""
    lines = [f"{title:44} {'time':>10} {'baseline':>10} {'ratio':>7} {'goal':>6}"]
    for row in rows:
        goal = "" if row.case.goal is None else f"{row.case.goal:g}"
        mark = _mark(row.ratio, row.case.goal)
        lines.append(
            f"  {row.case.name:42} {_duration(row.seconds):>10}"
            f" {_duration(row.baseline_seconds):>10} {row.ratio:>7.1f} {goal:>6}{mark}"
        )
    for name in dict.fromkeys(row.case.baseline for row in rows):
        lines.append(f"  baseline: {name}")
    return "\n".join(lines)


async def _calibrate(run: Run | Setup, seconds: float, clock: Clock) -> int:
    if isinstance(run, Setup):
        return run.count
    await _timed(run, 2, clock)  # warm: what the first time costs is another question
    count = 2
    while await _timed(run, count, clock) < seconds / 2:
        count *= 2
    return count


async def _timed(run: Run | Setup, count: int, clock: Clock) -> float:
    if isinstance(run, Setup):
        run = run.make()
    gc.collect()
    gc.disable()
    try:
        started = clock()
        running = run(count)
        if isawaitable(running):
            await running
        return clock() - started
    finally:
        gc.enable()


def _mark(value: float, goal: float | None) -> str:
    return " over" if goal is not None and value > goal else ""


def _duration(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2f} {unit}"
    return f"{seconds * 1e9:.0f} ns"
