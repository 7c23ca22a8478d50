"""The command line of the simulator: `python -m amnode.testing --seeds 1000 --jobs 2`.

It runs one simulation a seed, prints what they came to together, and ends with code 1 if a
promise was broken in any; then it says how to repeat that one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

from amnode.testing.batch import quiet, run
from amnode.testing.faults import ON_WORKERS, STATES, Kind
from amnode.testing.simulation import Verdict, simulate

#: Lines of a trace that are shown.
_LINES = 200
_DAY = 86400.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    quiet()
    kinds = tuple(Kind(name) for name in options.faults) if options.faults else tuple(Kind)
    if options.trace:
        return _show(options.start, kinds)
    sums: dict[str, int] = {}
    broken: list[Verdict] = []
    seeds = range(options.start, options.start + options.seeds)
    begun = time.monotonic()
    simulated, done = 0.0, 0
    for verdict in _within(options.limit, run(seeds, kinds, options.jobs)):
        done += 1
        simulated += verdict.seconds
        for what, count in verdict.counters.items():
            sums[what] = sums.get(what, 0) + count
        if verdict.broken:
            broken.append(verdict)
            print(_explain(verdict, options.faults), flush=True)
    _report(sums, done, simulated, time.monotonic() - begun, len(broken))
    return 1 if broken or not done else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m amnode.testing", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many simulations to run")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes run them")
    parser.add_argument(
        "--faults",
        nargs="*",
        choices=[kind.value for kind in Kind],
        help="the faults that may occur; all of them by default",
    )
    parser.add_argument(
        "--limit", type=float, default=0.0, help="seconds after which no seed is begun; 0: none"
    )
    parser.add_argument(
        "--trace", action="store_true", help="run one seed and show what happened in it"
    )
    return parser


def _within(limit: float, verdicts: Iterable[Verdict]) -> Iterator[Verdict]:
    end = time.monotonic() + limit
    for verdict in verdicts:
        yield verdict
        if limit and time.monotonic() >= end:
            return


def _explain(verdict: Verdict, faults: Sequence[str] | None) -> str:
    only = "".join(f" '{name}'" for name in faults or ())
    again = f"python -m amnode.testing --trace --start {verdict.seed}"
    return f"seed {verdict.seed}: {verdict.broken}\n  {again}{only and ' --faults' + only}"


def _show(seed: int, kinds: Sequence[Kind]) -> int:
    verdict = simulate(seed, kinds=kinds, keep_lines=True)
    for line in verdict.lines[-_LINES:] if verdict.broken else verdict.lines:
        print(line)
    print(f"seed {seed}, trace {verdict.digest}: {verdict.broken or 'all promises hold'}")
    return 1 if verdict.broken else 0


def _report(
    sums: dict[str, int], done: int, simulated: float, took: float, broken: int
) -> None:
    print(f"{done} seeds in {took:.1f} s; {simulated / _DAY:.2f} simulated days")
    for what in sorted(sums):
        if not what.startswith("fault: "):
            print(f"  {sums[what]:>9}  {what}")
    print("\nfaults by kind, and by what the worker was to its pool:")
    print("  " + " " * 19 + "".join(f"{state:>13}" for state in (*STATES, "in all")))
    for kind in Kind:
        cells = [sums.get(f"fault: {kind} x {state}", 0) for state in STATES]
        shown = [str(count) if kind in ON_WORKERS else "" for count in cells]
        total = sums.get(f"fault: {kind}", 0)
        print(f"  {kind:<19}" + "".join(f"{cell:>13}" for cell in (*shown, total)))
    print(f"\n{broken} broken promises")


if __name__ == "__main__":
    sys.exit(main())
