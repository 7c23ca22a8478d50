"""What others do when the worker that has a call is killed: how soon the call fails, and how
soon another call is answered.

Each has one function, which kills once and returns two times in seconds; the first is None
where the call never fails by itself. All use two processes, which are warm.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from typing import Any, TypeAlias

#: Until the call failed, and until another was answered.
Times: TypeAlias = tuple[float | None, float]

#: A context that does not inherit the threads and the loop of the benchmark.
SPAWN = multiprocessing.get_context("forkserver")


def square(n: int) -> int:
    return n * n


def last(line: str) -> None:
    """Says which process has the call, and never ends."""
    with open(line, "w") as said:  # noqa: PTH123 - the start-up of peers has no pathlib either
        said.write(f"{os.getpid()}\n")
    while True:
        signal.pause()


def _kill(line: str) -> float:
    with open(line) as said:  # noqa: PTH123
        pid = int(said.readline())
    killed = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    return killed


def _futures(make: Callable[[], Any], line: str) -> Times:
    """An executor that is broken by it: another is made, as its user has to."""
    pool = make()
    for warm in [pool.submit(square, 2) for _ in range(8)]:
        warm.result()
    call = pool.submit(last, line)
    killed = _kill(line)
    error = call.exception()
    failed = time.perf_counter() - killed
    assert error is not None
    pool.shutdown()
    other = make()
    assert other.submit(square, 3).result() == 9
    answered = time.perf_counter() - killed
    other.shutdown()
    return failed, answered


def _pebble(line: str) -> Times:
    pool = import_module("pebble").ProcessPool(2, context=SPAWN)
    for warm in [pool.schedule(square, args=(2,)) for _ in range(8)]:
        warm.result()
    call = pool.schedule(last, args=(line,))
    killed = _kill(line)
    assert call.exception() is not None
    failed = time.perf_counter() - killed
    assert pool.schedule(square, args=(3,)).result() == 9
    answered = time.perf_counter() - killed
    pool.stop()
    pool.join()
    return failed, answered


def _multiprocessing(line: str) -> Times:
    """The call stays without an answer; the other process takes the next one."""
    with SPAWN.Pool(2) as pool:
        pool.map(square, range(8))
        call = pool.apply_async(last, (line,))
        killed = _kill(line)
        assert pool.apply(square, (3,)) == 9
        answered = time.perf_counter() - killed
        call.wait(0.5)
        return (0.5 if call.ready() else None), answered


def _serve(line: str, address: Any) -> None:
    server = import_module("Pyro5.api")

    class Served:
        @server.expose
        def last(self) -> None:
            last(line)

    with server.Daemon(host="127.0.0.1") as daemon:
        address.send(str(daemon.register(Served)))
        daemon.requestLoop()


def _call_served(uri: str, failed: Any) -> None:
    api = import_module("Pyro5.api")
    try:
        with api.Proxy(uri) as proxy:
            proxy.last()
    except import_module("Pyro5.errors").CommunicationError:
        failed.append(time.perf_counter())


def _pyro(line: str) -> Times:
    """It has no pool: only the failure of the call is its own; a server is started again."""
    from threading import Thread

    def start() -> tuple[Any, str]:
        mine, other = SPAWN.Pipe()
        process = SPAWN.Process(target=_serve, args=(line, other))
        process.start()
        uri = mine.recv()
        mine.close()
        other.close()
        return process, uri

    process, uri = start()
    failed: list[float] = []
    caller = Thread(target=_call_served, args=(uri, failed))
    caller.start()
    killed = _kill(line)
    caller.join()
    process.join()
    again, _ = start()
    answered = time.perf_counter() - killed
    again.kill()
    again.join()
    return failed[0] - killed, answered


def peers() -> dict[str, Callable[[str], Times]]:
    """Those that are installed, by name; each takes the path of a FIFO."""
    found: dict[str, Callable[[str], Times]] = {
        "ProcessPoolExecutor": partial(
            _futures, partial(ProcessPoolExecutor, 2, mp_context=SPAWN)
        ),
        "multiprocessing.Pool": _multiprocessing,
    }
    for name, run in (("loky", None), ("pebble", _pebble), ("Pyro5", _pyro)):
        try:
            module = import_module(name)
        except ImportError:
            print(f"  {name} is not installed (pip install 'amnode[bench]'), so not measured")
            continue
        found[name] = run or partial(_futures, partial(module.ProcessPoolExecutor, 2))
    return found
