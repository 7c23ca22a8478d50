"""Batch: many simulations, in one process or in several."""

from __future__ import annotations

import gc
import logging
import multiprocessing
from collections.abc import Iterator, Sequence

from amnode.testing.faults import Kind
from amnode.testing.simulation import Verdict, simulate

#: Seeds that one process takes at a time.
_BATCH = 4


def run(seeds: Sequence[int], kinds: Sequence[Kind], jobs: int) -> Iterator[Verdict]:
    """Runs one simulation a seed.

    Args:
        seeds: of the simulations.
        kinds: the faults that may occur.
        jobs: how many processes run them; with one, this process does.

    Yields:
        What came of each, in any order.
    """
    work = [(seed, kinds) for seed in seeds]
    if jobs == 1:
        yield from map(_one, work)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, quiet) as pool:
        yield from pool.imap_unordered(_one, work, chunksize=_BATCH)


def quiet() -> None:
    """Has the actors of simulations log nothing: the trace has it all."""
    logging.getLogger("amnode").setLevel(logging.CRITICAL + 1)
    gc.freeze()


def _one(work: tuple[int, Sequence[Kind]]) -> Verdict:
    seed, kinds = work
    return simulate(seed, kinds=kinds)
