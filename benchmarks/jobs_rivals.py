"""Other pools of processes, each with the calls that `jobs.py` makes.

A `Rival` opens its pool with so many workers and gives `call`, `map` and `echo` on it. One that
is not installed is named and left out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any


def square(n: int) -> int:
    return n * n


def echo(data: bytes) -> bytes:
    return data


@dataclass(frozen=True)
class Opened:
    """A pool that runs.

    Attributes:
        call: makes one call of `square` and waits for it.
        map: makes many of them, so many in a message; consumes the results.
        echo: sends bytes to a worker and gets them back.
    """

    call: Callable[[int], Any]
    map: Callable[[Sequence[int], int], None] | None = None
    echo: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True)
class Rival:
    """One of the others."""

    name: str
    module: str
    open: Callable[[int], contextlib.AbstractContextManager[Opened]]

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


def _use_up(results: Iterator[Any]) -> None:
    for _ in results:
        pass


@contextlib.contextmanager
def _executor(workers: int) -> Generator[Opened]:
    with ProcessPoolExecutor(workers) as pool:
        yield Opened(
            lambda n: pool.submit(square, n).result(),
            lambda numbers, chunk: _use_up(pool.map(square, numbers, chunksize=chunk)),
            lambda data: pool.submit(echo, data).result(),
        )


@contextlib.contextmanager
def _multiprocessing(workers: int) -> Generator[Opened]:
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield Opened(
            lambda n: pool.apply(square, (n,)),
            lambda numbers, chunk: _use_up(iter(pool.map(square, numbers, chunksize=chunk))),
            lambda data: pool.apply(echo, (data,)),
        )
        pool.close()
        pool.join()


@contextlib.contextmanager
def _loky(workers: int) -> Generator[Opened]:
    from loky import ProcessPoolExecutor as Loky

    pool = Loky(workers)
    try:
        yield Opened(
            lambda n: pool.submit(square, n).result(),
            lambda numbers, chunk: _use_up(pool.map(square, numbers, chunksize=chunk)),
            lambda data: pool.submit(echo, data).result(),
        )
    finally:
        pool.shutdown(kill_workers=True)


@contextlib.contextmanager
def _pebble(workers: int) -> Generator[Opened]:
    from pebble import ProcessPool

    with ProcessPool(workers) as pool:
        yield Opened(
            lambda n: pool.schedule(square, args=(n,)).result(),
            lambda numbers, chunk: _use_up(pool.map(square, numbers, chunksize=chunk).result()),
            lambda data: pool.schedule(echo, args=(data,)).result(),
        )


#: What an execnet worker runs: one message is a list of numbers.
_EXECNET = """
for numbers in channel:
    if isinstance(numbers, bytes):
        channel.send(numbers)
    else:
        channel.send([n * n for n in numbers])
"""


@contextlib.contextmanager
def _execnet(workers: int) -> Generator[Opened]:
    import execnet

    group = execnet.Group(["popen"] * workers)
    channels = [gateway.remote_exec(_EXECNET) for gateway in group]

    def one(value: Any) -> Any:
        channels[0].send(value)
        return channels[0].receive()

    def many(numbers: Sequence[int], chunk: int) -> None:
        """As many as possible are under way, as its users do it: send all, then receive."""
        sent = [0] * len(channels)
        for at, first in enumerate(range(0, len(numbers), chunk)):
            channels[at % len(channels)].send(list(numbers[first : first + chunk]))
            sent[at % len(channels)] += 1
        for channel, count in zip(channels, sent, strict=True):
            for _ in range(count):
                channel.receive()

    try:
        yield Opened(lambda n: one([n])[0], many, one)
    finally:
        group.terminate(1.0)


@contextlib.contextmanager
def _dask(workers: int) -> Generator[Opened]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        yield Opened(
            lambda n: client.submit(square, n, pure=False).result(),
            None,
            lambda data: client.submit(echo, data, pure=False).result(),
        )


@contextlib.contextmanager
def _ray(workers: int) -> Generator[Opened]:
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    try:
        remote_square, remote_echo = ray.remote(square), ray.remote(echo)
        yield Opened(
            lambda n: ray.get(remote_square.remote(n)),
            None,
            lambda data: ray.get(remote_echo.remote(data)),
        )
    finally:
        ray.shutdown()


RIVALS = (
    Rival("multiprocessing.Pool", "multiprocessing", _multiprocessing),
    Rival("ProcessPoolExecutor", "concurrent.futures", _executor),
    Rival("loky", "loky", _loky),
    Rival("pebble", "pebble", _pebble),
    Rival("execnet", "execnet", _execnet),
)
#: They bring processes of their own, which take a while to start and are never at rest.
LARGE = (Rival("Dask distributed", "distributed", _dask), Rival("Ray", "ray", _ray))
