"""The figures of simulation, each with what was reached.

R1  whole deployments with faults: as many seeds as the time allows
R2  every interleaving of a small pool, up to a number of states
R3  planted bugs that are found
R4  seeds whose traces are the same in two processes with other hash seeds
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from amnode.testing import simulate
from amnode.testing.__main__ import main as simulations
from amnode.testing.search import Bounds, search
from tests.sim.planted import BUGS

#: Runs seeds and prints the hashes of their traces.
_PROBE = (
    "import logging, sys; logging.getLogger('amnode').setLevel(1000)\n"
    "from amnode.testing import simulate\n"
    "for seed in range(int(sys.argv[1])): print(simulate(seed, most=10.0).digest)"
)


def many_deployments(seconds: float, jobs: int) -> bool:
    """R1."""
    print(f"R1 whole deployments, for {seconds:g} s", flush=True)
    told = ["--seeds", "1000000", "--jobs", str(jobs), "--limit", str(seconds)]
    return not simulations(told)


def every_interleaving(states: int) -> bool:
    """R2."""
    began = time.perf_counter()
    found = search(Bounds(states=states))
    whole = "all there are" if found.complete else "of more"
    print(
        f"R2 every interleaving: {found.states} states, {whole}, in "
        f"{time.perf_counter() - began:.0f} s: {found.broken or '0 violations'}",
        flush=True,
    )
    return not found.broken


def planted_bugs(within: int, jobs: int, *, rare: bool) -> bool:
    """R3."""
    began = time.perf_counter()
    names = [bug.name for bug in BUGS if rare or not bug.rare]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        found = [*pool.map(_seeds_until_found, names, [within] * len(names))]
    missed = [name for name, seeds in zip(names, found, strict=True) if seeds is None]
    slowest = max((seeds for seeds in found if seeds is not None), default=0)
    print(
        f"R3 planted bugs: {len(names) - len(missed)} of {len(names)} found, each within "
        f"{slowest} seeds of where it was found last, in {time.perf_counter() - began:.0f} s"
        f"{'; not found: ' if missed else ''}{', '.join(missed)}",
        flush=True,
    )
    return not missed


def _seeds_until_found(name: str, within: int) -> int | None:
    logging.getLogger("amnode").setLevel(logging.CRITICAL + 1)
    (bug,) = (bug for bug in BUGS if bug.name == name)
    with pytest.MonkeyPatch.context() as patch:
        bug.plant(patch)
        for tried in range(within):
            if simulate(bug.seed + tried, kinds=bug.kinds, most=30.0).broken:
                return tried + 1
    return None


def same_traces(count: int) -> bool:
    """R4."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _PROBE, str(count)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("1", "2")
    ]
    one, other = (run.communicate()[0].splitlines() for run in runs)
    same = sum(a == b for a, b in zip(one, other, strict=True))
    print(f"R4 the same seed twice: {same} of {count} traces are the same", flush=True)
    return same == count
