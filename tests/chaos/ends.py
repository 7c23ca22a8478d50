"""R9 and the first half of R15: pools that end, in order under load and by force.

A program of its own has a pool, a client and workers with daemons in sessions of their own;
each process of it carries a cookie in its environment, by which what is left is found.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

from amnode import Client, LeaseLost, Supervisor, WorkerError
from tests.chaos.found import Found
from tests.chaos.workers import Napping
from tests.launch.violent_ends import COOKIE, left_of
from tests.promises.pools import WatchedSupervisor, client_of, short
from tests.promises.workers import Plain

#: Seconds that jobs may go on after a stop, and that are allowed beyond.
GRACE, BEYOND = 1.5, 2.0

ENDS = ("supervisor", "client", "both", "Ctrl-C twice", "terminal")


# -- in order --------------------------------------------------------------------------------


async def stops(count: int, chance: random.Random, found: Found) -> None:
    """R15: a stop under load. No job is lost that fits in the grace, and the end is in time."""
    for _ in range(count):
        size = chance.randint(1, 3)
        opts = short(size, stop_grace=GRACE, max_per_client=1)
        async with WatchedSupervisor(Napping, opts=opts) as supervisor:
            await supervisor.all_idle(size)
            clients = [client_of(supervisor, f"c{n}", Napping) for n in range(size)]
            for client in clients:
                client.start()
            working = [
                asyncio.create_task(_work(client, chance.uniform(0.0, 1.5 * GRACE)))
                for client in clients
            ]
            await supervisor.until(lambda view, n=size: view.counts.leased == n)
            await asyncio.sleep(chance.uniform(0.0, 0.2))
            began = time.monotonic()
            await supervisor.stop()
            taken = time.monotonic() - began
            found.times["stop under load"].append(taken)
            found.check(taken <= GRACE + BEYOND, f"a stop took {taken:.2f} s")
            for done in asyncio.as_completed(working):
                ended_at, seconds, lost = await done
                # Closer to the end of the grace, it may be either.
                fits = ended_at - began < GRACE - 0.2
                found.check(not (lost and fits), f"a job of {seconds:.2f} s was lost: {lost}")
                found.counts["job lost past the grace" if lost else "job ended well"] += 1
            for client in clients:
                await client.dispose()
        found.counts["graceful stops"] += 1


async def _work(client: Client, seconds: float) -> tuple[float, float, str]:
    """One job: when it ended or would have, how long it was, and what it was lost with."""
    async with client.lease() as worker:
        began = time.monotonic()
        try:
            await worker.call(Napping.nap, seconds)
        except (WorkerError, LeaseLost, asyncio.CancelledError) as error:
            return began + seconds, seconds, repr(error)
        except Exception as error:  # a job that was cancelled at the end of the grace
            return began + seconds, seconds, repr(error)
        return time.monotonic(), seconds, ""


# -- by force --------------------------------------------------------------------------------


async def violent(count: int, chance: random.Random, found: Found) -> None:
    """R9: whoever dies, and however, nothing is left of a pool."""
    for _ in range(count):
        kind = chance.choice(ENDS)
        left = await asyncio.to_thread(_end, kind, chance.uniform(0.0, 0.2))
        found.check(not left, f"{kind}: left {left}")
        found.counts[f"end of {kind}"] += 1


def _end(kind: str, delay: float) -> list[str]:
    cookie = f"{os.getpid()}-{time.monotonic_ns()}"
    env = {**os.environ, COOKIE: cookie}
    command = [sys.executable, "-m", "tests.chaos.ends"]
    with (
        _started([*command, "pool"], env) as pool,
        _started([*command, "client"], env) as client,
    ):
        try:
            assert pool.stdout and client.stdin and client.stdout
            client.stdin.write(pool.stdout.readline())
            client.stdin.flush()
            assert client.stdout.readline() == b"working\n"
            time.sleep(delay)  # a random moment is what is wanted
            _strike(kind, pool, client)
            if kind == "client":
                assert pool.stdout.readline() == b"alone\n"
        finally:
            pool.kill()
            client.kill()
    return left_of(cookie)


def _started(command: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # how it dies is known
        env=env,
        start_new_session=True,
    )


def _strike(kind: str, pool: subprocess.Popen[bytes], client: subprocess.Popen[bytes]) -> None:
    if kind in ("client", "both"):
        client.kill()
    if kind in ("supervisor", "both"):
        pool.kill()
    if kind == "Ctrl-C twice":
        for _ in range(2):
            with suppress(ProcessLookupError):
                os.killpg(pool.pid, signal.SIGINT)
            time.sleep(0.02)
    if kind == "terminal":
        os.killpg(pool.pid, signal.SIGHUP)


async def _pool() -> None:
    async with Supervisor(Plain, opts=short(2, stop_grace=0.5)) as made:
        await made.when_ready()
        print(json.dumps([made.address, made.token.hex()]), flush=True)
        await made.machine.when1("ClientConnected")
        await made.machine.when1("ClientDisconnected")
        print("alone", flush=True)
        await asyncio.Event().wait()


async def _client() -> None:
    address, token = json.loads(sys.stdin.readline())
    async with Client("me", Plain, addrs=[address], token=bytes.fromhex(token)) as me:
        one, two = await me.req_worker(), await me.req_worker()
        for worker in (one, two):
            await worker.call(Plain.daemon)
            await worker.call(Plain.grandchild)
        running = asyncio.create_task(one.call(Plain.last))
        await one.machine.when1("Begun")
        print("working", flush=True)
        await running


if __name__ == "__main__":
    asyncio.run({"pool": _pool, "client": _client}[sys.argv[1]]())
