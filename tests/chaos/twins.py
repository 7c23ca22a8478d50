"""R10: two supervisors of the same workers, one of them stale.

The stale one is stopped and continued, or has a copy of the state directory. Both have clients
who lease what they can and write into one journal who was served, when and in which epoch; the
journal is judged afterwards.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

from amnode import AmnodeError, Client, ClientOptions
from amnode.launch.reaper import parent_of
from tests.chaos.found import Found
from tests.promises.pools import (
    WatchedSupervisor,
    gone,
    is_alive,
    program,
    short,
)
from tests.promises.test_one_client import read
from tests.promises.workers import Plain

TOKEN = b"t" * 32


async def rounds(count: int, chance: random.Random, found: Found) -> None:
    """Each round has a supervisor that was there first, and one that comes later."""
    for _ in range(count):
        with tempfile.TemporaryDirectory(prefix="am-", dir="/tmp") as name:
            stopped = chance.random() < 0.5
            await _round(Path(name), stopped, chance, found)
        found.counts["stopped and continued" if stopped else "copied directory"] += 1


async def _round(directory: Path, stopped: bool, chance: random.Random, found: Found) -> None:
    state, copy, journal = directory / "state", directory / "copy", directory / "journal"
    journal.touch()
    size = chance.randint(1, 3)
    told = {"token": TOKEN.hex(), "name": "me", "state_dir": str(state), "adopt_wait": 1.0}
    async with program("supervisor", size=size, **told) as old:
        said = await old.said()
        servers = dict.fromkeys(parent_of(pid) for pid in said["pids"])
        async with _client("old", said["address"]) as first:
            held = await first.req_worker()
            await held.call(Plain.stamp, str(journal), "held")
            if stopped:
                os.kill(old.pid, signal.SIGSTOP)
            copy.mkdir(mode=0o700)
            for file in state.iterdir():
                if file.is_file():
                    shutil.copy(file, copy / file.name)
            opts = short(size, adopt_wait=60.0, most=size + 2)
            async with WatchedSupervisor(
                Plain, name="me", token=TOKEN, opts=opts, state_dir=str(copy)
            ) as new:
                await new.when_ready()
                pids = {row.pid for row in await new.workers()}
                found.check(set(said["pids"]) <= pids, f"{said['pids']} became {pids}")
                os.kill(old.pid, signal.SIGCONT)
                async with _client("new", new.address) as second:
                    await asyncio.gather(
                        _use(first, "first", journal, chance, found),
                        _use(second, "second", journal, chance, found),
                    )
                await held.call(Plain.stamp, str(journal), "held")  # nobody has retired it
                await held.release()
                strangers = [pid for pid in said["pids"] if not is_alive(pid)]
                found.check(not strangers, f"signalled by whom they are not: {strangers}")
    for pid in (*said["pids"], *servers):  # a fork server stays for those that it has forked
        await gone(pid)
    _judge(journal, found)


def _client(name: str, address: str) -> Client:
    opts = ClientOptions(request_wait=2.0)
    return Client(name, Plain, addrs=[address], token=TOKEN, opts=opts)


async def _use(
    client: Client, name: str, journal: Path, chance: random.Random, found: Found
) -> None:
    for number in range(chance.randint(1, 4)):
        try:
            async with client.lease() as worker:
                for _ in range(2):
                    await worker.call(Plain.stamp, str(journal), f"{name}-{number}")
        except AmnodeError as error:  # a stale one has none to give
            found.counts[f"no lease: {type(error).__name__}"] += 1
        else:
            found.counts["leases"] += 1


def _judge(journal: Path, found: Found) -> None:
    """Promises S1 to S3, over what the workers wrote."""
    for worker, served in read(journal).items():
        served.sort(key=lambda record: record.start)
        for one, next_ in itertools.pairwise(served):
            said: Any = f"{worker}: {one} and then {next_}"
            found.check(one.end <= next_.start, f"two jobs at once (S2): {said}")
            same = one.client == next_.client
            found.check(
                same if one.epoch == next_.epoch else one.epoch < next_.epoch,
                f"two clients in one epoch, or an epoch that fell (S1, S3): {said}",
            )
        found.counts["jobs judged"] += len(served)
