"""`amnode set-pool`, `restart`, `drain`, `resume`, `stop`: what operators do to a running pool.

1. None of them cuts a lease short, but `stop` past `stop_grace`.
2. A command that waits can be left (Ctrl-C, `--within`): what it asked for goes on, and it
   says so.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console

from amnode.cli.operator import Operator, operator
from amnode.cli.shared import NOWHERE, PLAIN, Output, Where, run_async
from amnode.cli.show import plural, write_json
from amnode.errors import AmnodeError, OptionError, PoolError, WaitTimeoutError
from amnode.launch.process import adopt
from amnode.node.args import SetPoolArgs
from amnode.node.policy.options import PoolSize
from amnode.node.policy.view import PoolView
from amnode.node.states import SupervisorStates

S = SupervisorStates

#: Seconds between two looks at what is left to do; the end itself is told.
_LOOK_EVERY = 0.25

Within = Annotated[
    float | None,
    Parameter(help="Wait so many seconds at most (exit code 5); what was asked for goes on."),
]
Wait = Annotated[bool, Parameter(help="Whether to wait for its end.")]


class Done(msgspec.Struct, frozen=True):
    """What a command that waits prints as JSON.

    Attributes:
        name: of the supervisor.
        done: whether what was asked for has ended; it has not if nobody waited.
        seconds: how long it took.
        workers: how many it was about.
    """

    name: str
    done: bool
    seconds: float
    workers: int


def set_pool(
    *,
    min: Annotated[
        int | None, Parameter(help="The pool is ready with so many ready workers.")
    ] = None,
    max: Annotated[int | None, Parameter(help="Never more processes than that.")] = None,
    warm: Annotated[int | None, Parameter(help="Idle workers beyond those in use.")] = None,
    max_per_client: Annotated[
        int | None, Parameter(help="What one client may hold; 0 is max.")
    ] = None,
    where: Where = NOWHERE,
    output: Output = PLAIN,
) -> None:
    """Gives the pool another size, at once; what is left out stays.

    A smaller one retires idle workers; a leased one goes when its lease ends. It holds until
    the supervisor is started again: the file of settings is not changed.
    """
    if min is max is warm is max_per_client is None:
        raise OptionError("Say what to change: --min, --max, --warm, --max-per-client.")
    changes = {"min": min, "max": max, "warm": warm, "max_per_client": max_per_client}
    given = {key: value for key, value in changes.items() if value is not None}
    size = run_async(_set_pool(where, given))
    if output.json:
        write_json(size)
    else:
        print(
            f"min {size.min}, max {size.max}, warm {size.warm}, "
            f"{size.max_per_client} at most a client"
        )


async def _set_pool(where: Where, changes: dict[str, int]) -> PoolSize:
    async with operator(where) as supervisor:
        old = (await supervisor.listing()).pool.size
        # One that was max stays so.
        per_client = 0 if old.max_per_client == old.max else old.max_per_client
        new = {"min": old.min, "max": old.max, "warm": old.warm, "max_per_client": per_client}
        args = SetPoolArgs(**(new | changes))
        PoolSize(args.min, args.max, args.warm, args.max_per_client)  # said here, not there
        change = supervisor.source.add1(S.SetPool, args)
        await supervisor.change(change, "The supervisor is stopping.")
        return (await supervisor.listing()).pool.size


def restart(
    *,
    wait: Wait = True,
    within: Within = None,
    where: Where = NOWHERE,
    output: Output = PLAIN,
) -> None:
    """Replaces every worker, a few at a time, while the pool stays ready.

    New ones start first; a leased worker goes when its lease ends. Needs max above min.
    """
    _show(run_async(_restart(where, wait, within)), "replaced", "being replaced", output)


async def _restart(where: Where, wait: bool, within: float | None) -> Done:
    async with operator(where) as supervisor, _bounded(within, "The restart") as begun:
        count = len((await supervisor.listing()).workers)
        change = supervisor.source.add1(S.RollingRestart)
        await supervisor.change(change, "The supervisor is stopping.")
        if wait:
            await _follow(
                supervisor,
                supervisor.source.when_not1(S.RollingRestart),
                lambda pool: pool.to_restart,
                ("restarting", count),
            )
        return Done(supervisor.place.shown, wait, begun(), count)


def drain(
    *,
    wait: Wait = True,
    within: Within = None,
    where: Where = NOWHERE,
    output: Output = PLAIN,
) -> None:
    """Grants no more leases, and waits until no lease is left.

    Requests wait meanwhile, or go to peers. `amnode resume` ends it.
    """
    _show(run_async(_drain(where, wait, within)), "drained", "being drained", output)


async def _drain(where: Where, wait: bool, within: float | None) -> Done:
    async with operator(where) as supervisor, _bounded(within, "The drain") as begun:
        count = _in_use((await supervisor.listing()).pool)
        change = supervisor.source.add1(S.Draining)
        await supervisor.change(change, "The supervisor is stopping.")
        if wait:
            drained = supervisor.source.when1(S.Drained)
            await _follow(supervisor, drained, _in_use, ("draining", count))
        return Done(supervisor.place.shown, wait, begun(), count)


def resume(*, where: Where = NOWHERE, output: Output = PLAIN) -> None:
    """Grants leases again, after `amnode drain`."""
    _show(run_async(_resume(where)), "", "", output)


async def _resume(where: Where) -> Done:
    async with operator(where) as supervisor, _bounded(None, "") as begun:
        change = supervisor.source.remove1(S.Draining)
        await supervisor.change(change, "The supervisor is stopping.")
        return Done(supervisor.place.shown, True, begun(), 0)


def stop(
    *,
    drain: Annotated[
        bool, Parameter(negative="", help="First wait for the last lease to end.")
    ] = False,
    wait: Wait = True,
    within: Within = None,
    where: Where = NOWHERE,
    output: Output = PLAIN,
) -> None:
    """Stops a supervisor with all of its workers, and waits until they are gone.

    Leases have `stop_grace` to end; with --drain, as long as they take.
    """
    _show(run_async(_stop(where, drain, wait, within)), "stopped", "being stopped", output)


async def _stop(where: Where, first_drain: bool, wait: bool, within: float | None) -> Done:
    async with _bounded(within, "The stop") as begun:
        async with operator(where) as supervisor:
            place = supervisor.place
            if first_drain:
                change = supervisor.source.add1(S.Draining)
                await supervisor.change(change, "The supervisor is stopping.")
                drained = supervisor.source.when1(S.Drained)
                await _follow(supervisor, drained, _in_use, ("draining", 0))
            count = len((await supervisor.listing()).workers)
            change = supervisor.source.remove1(S.Start)
            await supervisor.change(change, "The supervisor does not stop.")
            if wait:
                await supervisor.lost
        if wait and place.is_program and place.door is not None:
            process = adopt(place.door.pid, place.door.pid_start, Path(os.devnull))
            try:
                await process.exited
            finally:
                process.let_go()
        return Done(place.shown, wait, begun(), count)


def _in_use(pool: PoolView) -> int:
    return pool.counts.leased + pool.counts.handed_over


def _show(done: Done, ended: str, goes_on: str, output: Output) -> None:
    if output.json:
        write_json(done)
    elif done.done:
        what = f" {ended}: {plural(done.workers, 'worker')}" if ended else ""
        print(f"{done.name}{what or ' grants leases again'} ({done.seconds:.1f} s)")
    else:
        print(f"{done.name} is {goes_on}")


@asynccontextmanager
async def _bounded(
    within: float | None, what: str
) -> AsyncGenerator[Callable[[], float], None]:
    """Rule 2; gives what says how long it has taken so far."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    scope = asyncio.timeout(within)
    try:
        async with scope:
            yield lambda: loop.time() - begun
    except TimeoutError as error:
        if not scope.expired() or isinstance(error, AmnodeError):
            raise
        raise WaitTimeoutError(
            f"{what} was not over in {within:g} s; it goes on. `amnode ps` shows how far it is."
        ) from None


async def _follow(
    supervisor: Operator,
    ended: asyncio.Future[None],
    left: Callable[[PoolView], int],
    title: tuple[str, int],
) -> None:
    """Waits for an end, and shows how far it is where somebody sees it.

    Raises:
        PoolError: the supervisor stopped first.
    """
    showing = asyncio.create_task(_progress(supervisor, left, title))
    try:
        await asyncio.wait((ended, supervisor.lost), return_when=asyncio.FIRST_COMPLETED)
        if supervisor.lost.done() or not supervisor.source.is1(S.Start):
            raise PoolError(
                f"Supervisor {supervisor.place.shown} stopped before that was over."
            )
        ended.result()
    finally:
        ended.cancel()
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


async def _progress(
    supervisor: Operator, left: Callable[[PoolView], int], title: tuple[str, int]
) -> None:
    """A bar on the terminal of the standard error; nothing where that is none."""
    if not sys.stderr.isatty():
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title[0], total=max(title[1], 1), left="")
        while True:
            count = left((await supervisor.listing()).pool)
            bar.update(task, completed=max(title[1] - count, 0), left=f"{count} to go")
            await asyncio.sleep(_LOOK_EVERY)
