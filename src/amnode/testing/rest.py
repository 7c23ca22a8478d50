"""Rest: the predicates L that hold once nothing has gone wrong for long enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from amnode.node.policy.lease import Stage
from amnode.node.policy.sizing import target
from amnode.node.states import ClientStates, SupervisorStates
from amnode.testing.safety import require

if TYPE_CHECKING:
    from amnode.node.supervisor import Supervisor
    from amnode.testing.deployment import Deployment, Pool
    from amnode.testing.sim_client import SimClient

#: Seconds for which it is watched that little happens.
WATCHED: Final = 20.0

S, C = SupervisorStates, ClientStates
#: What of its supervisor a client follows and can be compared.
_FOLLOWED = (S.Start, S.Ready, S.PoolReady, S.WorkersAvailable, S.ErrPool)


def check(deployment: Deployment) -> None:
    """L1, L2, L3, L8: all is as if nothing had happened."""
    for pool in deployment.pools:
        _check_pool(deployment, pool)
    for client in deployment.clients:
        _check_client(deployment, client)
    for live in deployment.living():
        facts = live.facts()
        free = facts.stage is Stage.FREE and not facts.leased
        require(free, "L3", f"the lease of {live.worker_id} goes on: {facts}.")
        require(live.state() != "orphan", "L6", f"{live.worker_id} is nobody's and lives.")


def _check_pool(deployment: Deployment, pool: Pool) -> None:
    supervisor = pool.supervisor
    require(supervisor is not None, "L1", f"{pool.name} does not run.")
    assert supervisor is not None, "The line before says so."
    view, size = supervisor.view(), deployment.scenario.pool.size
    require(view.pool_ready and view.normalized, "L1", f"{pool.name} is not whole: {view}")
    require(not view.broken, "L1", f"{pool.name} is held back: {view.broken}")
    wanted = target(size, 0)
    require(view.counts.total == wanted, "L1", f"{pool.name} has {view}, not {wanted}.")
    require(view.counts.idle == wanted, "L1", f"not all of {pool.name} are idle: {view}")
    require(not view.counts.waiting, "L2", f"a request to {pool.name} waits on: {view}")
    for member in supervisor.core.roster:
        facts = deployment.facts_of(member.worker_id)
        require(facts is not None and facts.alive, "L1", f"{member.worker_id} is dead.")
        assert facts is not None, "The line before says so."
        require(member.tick == facts.tick, "L8", f"{member.worker_id} is at {facts.tick}.")


def _check_client(deployment: Deployment, client: SimClient) -> None:
    require(not client.busy, "L2", f"{client.name} runs {client.busy} errands.")
    driver = client.client
    require(driver is not None, "L2", f"{client.name} does not run.")
    assert driver is not None, "The line before says so."
    shown = driver.machine.any1(C.WorkerRequested, C.WorkerReady)
    require(not shown, "L2", f"{client.name} shows {driver.machine}, and wants nothing.")
    rpc = driver.rpc_super
    require(rpc is not None, "L2", f"{client.name} has no supervisor.")
    assert rpc is not None, "The line before says so."
    for pool in deployment.pools:
        if pool.supervisor is not None and pool.address == driver.super_addr:
            _check_replica(pool.supervisor, rpc.source.time(_FOLLOWED))


def _check_replica(supervisor: Supervisor, seen: tuple[int, ...]) -> None:
    there = supervisor.machine.time(_FOLLOWED)
    require(seen == there, "L8", f"a replica of {supervisor.name} is {seen}, not {there}.")


def check_quiet(deployment: Deployment, before: int) -> None:
    """L7: only checks and heartbeats."""
    options = deployment.scenario.pool
    workers = len(deployment.living())
    checks = workers * (WATCHED / options.worker_check_interval + 1)
    beats = len(deployment.pools) * (WATCHED / options.heartbeat + 1)
    happened = deployment.activity() - before
    most = 3 * checks + 3 * beats
    require(happened <= most, "L7", f"{happened} events at rest, {most:.0f} at most.")


def check_gone(deployment: Deployment) -> None:
    """L6: everybody has stopped, and no process is left."""
    left = [process.name for process in deployment.host.processes.values()]
    require(not left, "L6", f"processes are left: {left}.")
