"""One simulation: a deployment from its start to its end, and what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import msgspec

from amnode.errors import PromiseBroken, SimulationError
from amnode.testing import rest
from amnode.testing.deployment import Deployment, Pool
from amnode.testing.faults import MOST_SECONDS, Kind, Order, Scenario, scenario
from amnode.testing.injector import Injector
from amnode.testing.sim_client import SimClient


class Verdict(msgspec.Struct, frozen=True):
    """What came of one simulation.

    Attributes:
        seed: of it.
        broken: which promise was broken and how, or "".
        seconds: that it lasted, simulated.
        digest: the hash of its trace.
        counters: what happened, and how often.
        lines: of the trace, if they were kept.
    """

    seed: int
    broken: str
    seconds: float
    digest: str
    counters: dict[str, int]
    lines: list[str]


def simulate(
    seed: int,
    *,
    kinds: Sequence[Kind] = tuple(Kind),
    most: float = MOST_SECONDS,
    given: Scenario | None = None,
    keep_lines: bool = False,
) -> Verdict:
    """Runs one simulation.

    Args:
        seed: says everything that is left to chance.
        kinds: the faults that may occur.
        most: seconds for which things go wrong, at most.
        given: what there is and what goes wrong; drawn from the seed by default.
        keep_lines: whether the verdict has the lines of the trace.
    """
    what = given or scenario(Random(f"{seed}/scenario"), kinds, most)
    deployment = Deployment(seed, what, keep_lines=keep_lines)
    loop = deployment.loop
    broken = ""
    try:
        loop.run_until_complete(_life(deployment))
    except PromiseBroken as error:
        broken = str(error)
    except SimulationError as error:
        broken = f"L4: {error}"
    except RuntimeError:
        if deployment.broken is None:
            raise
    finally:
        seconds = loop.time()
        deployment.close()
    if deployment.broken is not None:
        broken = str(deployment.broken)
    if not broken and loop.uncaught:
        broken = f"L4: nobody caught {loop.uncaught[0]}"
    return Verdict(
        seed,
        broken,
        seconds,
        deployment.trace.digest(),
        deployment.counters,
        deployment.trace.lines,
    )


async def _life(deployment: Deployment) -> None:
    loop, what = deployment.loop, deployment.scenario
    injector = Injector(deployment)
    deployment.start()
    for event in sorted((*what.faults, *what.orders), key=lambda event: event.at):
        await asyncio.sleep(event.at - loop.time())
        if isinstance(event, Order):
            deployment.order(event)
        else:
            injector.inject(event)
    await asyncio.sleep(what.seconds - loop.time())
    deployment.heal()
    if what.abrupt:
        await _stop(deployment, deployment.pools)
        await _stop(deployment, deployment.clients)
        await asyncio.sleep(deployment.orphan_bound())
    else:
        await asyncio.sleep(what.patience)
        rest.check(deployment)
        before = deployment.activity()
        await asyncio.sleep(rest.WATCHED)
        rest.check_quiet(deployment, before)
        await _stop(deployment, deployment.clients)
        injector.stop_one_worker()
        await _stop(deployment, deployment.pools)
    rest.check_gone(deployment)


async def _stop(deployment: Deployment, actors: Sequence[SimClient | Pool]) -> None:
    bound = deployment.stop_bound()
    await asyncio.sleep(0.5)  # who was started a moment ago has to be there to be told
    ends = [actor.process.exited for actor in actors if actor.process is not None]
    for actor in actors:
        actor.stop()
    _, late = await asyncio.wait(ends, timeout=bound)
    if late:
        names = [actor.process for actor in actors]
        raise PromiseBroken(f"L6: {names} did not stop in {bound} s.", promise="L6")
