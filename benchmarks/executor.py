"""Calls of `PoolExecutor` beside those of the executors and pools that others have.

    python benchmarks/executor.py [--quick]

All have two workers that are warm, and take turns: a round is one turn of each, and the table
has the median of the rounds. loky is among them where it is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any

from amnode import PoolExecutor

MIB = 1 << 20


def give(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Peer:
    name: str
    call: Callable[[Any], Any]
    map: Callable[..., Iterable[Any]]


def peers(stack: contextlib.ExitStack) -> Iterator[Peer]:
    ours = stack.enter_context(PoolExecutor(2))
    yield Peer("PoolExecutor", lambda value: ours.submit(give, value).result(), ours.map)
    theirs = stack.enter_context(ProcessPoolExecutor(2))
    yield Peer("ProcessPoolExecutor", lambda v: theirs.submit(give, v).result(), theirs.map)
    pool = stack.enter_context(multiprocessing.Pool(2))
    yield Peer("multiprocessing.Pool", lambda value: pool.apply(give, (value,)), pool.imap)
    with contextlib.suppress(ImportError):
        import loky

        other = stack.enter_context(loky.ProcessPoolExecutor(2))
        yield Peer("loky", lambda value: other.submit(give, value).result(), other.map)


def one_call(peer: Peer, count: int) -> float:
    """Microseconds of a call, the median."""
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        peer.call(1)
        took.append(time.perf_counter() - began)
    return median(took) * 1e6


def mapped(peer: Peer, count: int, chunksize: int) -> float:
    """Calls a second."""
    began = time.perf_counter()
    for _ in peer.map(give, range(count), chunksize=chunksize):
        pass
    return count / (time.perf_counter() - began)


def processor_time(peer: Peer, count: int) -> float:
    """Microseconds of a mapped call that this process computes, whoever else does what."""
    began = time.process_time()
    for _ in peer.map(give, range(count)):
        pass
    return (time.process_time() - began) / count * 1e6


def carried(peer: Peer, data: bytes, count: int) -> float:
    """GiB a second of bytes to a worker and back, both directions counted."""
    began = time.perf_counter()
    for _ in range(count):
        assert len(peer.call(data)) == len(data)
    return 2 * len(data) * count / (time.perf_counter() - began) / (1 << 30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="too short to say anything")
    quick = parser.parse_args().quick
    rounds, scale = (1, 20) if quick else (5, 1)
    data = os.urandom(MIB) * (2 if quick else 32)
    columns: dict[str, Callable[[Peer], float]] = {
        "call, us": lambda peer: one_call(peer, 2000 // scale),
        "map /s": lambda peer: mapped(peer, 5000 // scale, 1),
        "map of 50 /s": lambda peer: mapped(peer, 50000 // scale, 50),
        "map, own us": lambda peer: processor_time(peer, 5000 // scale),
        "bytes, GiB/s": lambda peer: carried(peer, data, 2),
    }
    with contextlib.ExitStack() as stack:
        all_of_them = [*peers(stack)]
        for peer in all_of_them:
            list(peer.map(give, range(200)))
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for column, measure in columns.items():
                for peer in all_of_them:
                    found.setdefault((peer.name, column), []).append(measure(peer))
    print(f"{'':22}" + "".join(f"{column:>15}" for column in columns))
    for peer in all_of_them:
        values = [median(found[peer.name, column]) for column in columns]
        print(f"{peer.name:22}" + "".join(f"{value:15.4g}" for value in values))


if __name__ == "__main__":
    main()
