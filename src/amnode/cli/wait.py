"""`amnode wait`: waits until a machine is in some states, or in none of them."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from cyclopts import Parameter

from amnode.cli.machines import OfWorker, machine
from amnode.cli.shared import PLAIN, At, Output, Where, run_async
from amnode.cli.show import write_json
from amnode.errors import OptionError, WaitTimeoutError

NOWHERE = At()


class Waited(msgspec.Struct, frozen=True, kw_only=True):
    """A wait that has ended well.

    Attributes:
        machine: its id.
        states: those that were waited for, with their ticks.
        waited: seconds.
    """

    machine: str
    states: dict[str, int]
    waited: float


def wait(
    *states: Annotated[str, Parameter(name="STATE", help="The states; all of them.")],
    inactive: Annotated[
        bool,
        Parameter(name=["--not", "-n"], negative="", help="Until none of them is active."),
    ] = False,
    timeout: Annotated[
        float | None,
        Parameter(
            help="Seconds to wait, then it ends with 5. Without it, there is no end.",
            show_default=False,
        ),
    ] = None,
    worker: OfWorker = "",
    at: At = NOWHERE,
    output: Output = PLAIN,
) -> None:
    """Waits until all these states are active, or with --not, until none is.

    Ends at once if it is so already. A state that is over in a moment is seen, too. For a
    supervisor such as `amnode wait PoolReady`, or `amnode wait Drained`; for a worker
    `amnode wait Idle --worker 3`, or any state of its own.
    """
    if not states:
        raise OptionError("Name a state to wait for, such as PoolReady; see `amnode inspect`.")
    done = run_async(_wait(states, inactive, timeout, worker, at))
    if output.json:
        write_json(done)


async def _wait(
    states: tuple[str, ...], inactive: bool, timeout: float | None, worker: str, at: At
) -> Waited:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    where = Where(at=at.at, operator_file=at.operator_file, authority=at.authority)
    async with machine(where, worker, every=True) as waited_for:
        source = waited_for.source
        ready = source.when_not(states) if inactive else source.when(states)
        try:
            async with asyncio.timeout(timeout):
                await ready
        except TimeoutError:
            wanted = "none of " if inactive else ""
            now = " ".join(f"{name}:{tick}" for name, tick in source.clock(states).items())
            raise WaitTimeoutError(
                f"After {timeout:g} s {source.source_id} is not yet in {wanted}"
                f"{' '.join(states)}: {now} (an odd number is active)."
            ) from None
        return Waited(
            machine=source.source_id,
            states=source.clock(states),
            waited=round(loop.time() - begun, 6),
        )
