"""python -m tests.fuzz: hostile bytes against both sides of a connection, without I/O.

    python -m tests.fuzz --seconds 60 --jobs 2
    python -m tests.fuzz --frames 10000000 --jobs 2      # the whole of it
    python -m tests.fuzz --seed 7 --jobs 1 --frames 1e5  # the same again
    python -m tests.fuzz --replay FILE                   # a case that broke a rule

Ends with 1 if a rule of `rooms.py` was broken, memory grew or a frame took too long.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import msgspec

from tests.fuzz.rooms import Broken, Case
from tests.fuzz.run import Report, job, keep, replay

#: Bytes that the peak of a process may grow by once it is warm.
MEMORY = 16 << 20
#: Seconds of processor time that no piece may take.
WORST = 0.005


def main() -> int:
    """Runs what the command line says."""
    options = _options()
    if options.replay is not None:
        return _replayed(options.replay)
    seed = int.from_bytes(os.urandom(4), "big") if options.seed is None else options.seed
    jobs, frames = options.jobs, int(options.frames)
    seconds = 0.0 if frames else options.seconds
    print(f"seed {seed}, {jobs} jobs", flush=True)
    share = -(-frames // jobs)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(job, seed + at, share, seconds) for at in range(jobs)]
        reports = [run.result() for run in runs]
    if options.keep:
        found = {said: case for report in reports for said, case in report.found.items()}
        print(f"the corpus has {keep(found)} cases now")
    return _told(reports)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Hostile bytes against both sides of rpc."
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default 60)")
    parser.add_argument(
        "--frames", type=float, default=0, help="how many, in place of how long"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--seed", type=int, help="of the first process; random by default")
    parser.add_argument("--keep", action="store_true", help="write the corpus anew")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run the cases of a file")
    return parser.parse_args()


def _replayed(path: Path) -> int:
    cases = [msgspec.json.decode(line, type=Case) for line in path.read_bytes().splitlines()]
    try:
        for said in asyncio.run(replay(cases)):
            print(said)
    except Broken as error:
        print(f"broken: {error}")
        return 1
    return 0


def _told(reports: list[Report]) -> int:
    frames = sum(report.frames for report in reports)
    trusted = sum(report.trusted for report in reports)
    seconds = max(report.seconds for report in reports)
    kinds = {said for report in reports for said in report.found}
    worst = max(reports, key=lambda report: report.worst)
    memory = max(report.memory for report in reports)
    print(
        f"{frames:,} frames of {sum(report.cases for report in reports):,} peers in "
        f"{seconds:.1f} s: {frames / seconds:,.0f} a second, "
        f"{frames / sum(report.processor for report in reports):,.0f} a second of a core; "
        f"{trusted / max(1, frames):.0%} after authentication; {len(kinds)} kinds of ends"
    )
    print(f"worst frame {worst.worst / 1e6:.2f} ms; peak memory +{memory / (1 << 20):.1f} MiB")
    broken = [entry for report in reports for entry in report.broken]
    for reason, case in broken:
        print(f"broken: {reason}\n{msgspec.json.encode(case).decode()}", file=sys.stderr)
    if worst.worst > WORST * 1e9:
        case = msgspec.json.encode(worst.worst_case).decode()
        print(f"a frame took more than {WORST * 1e3:g} ms:\n{case[:2000]}", file=sys.stderr)
    if memory > MEMORY:
        print(f"memory grew by more than {MEMORY >> 20} MiB", file=sys.stderr)
    return 1 if broken or worst.worst > WORST * 1e9 or memory > MEMORY else 0


if __name__ == "__main__":
    sys.exit(main())
