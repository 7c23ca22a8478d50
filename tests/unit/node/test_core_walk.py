"""Random walks of the pool's core among workers and clients that fail in every way.

After each event: S3, S7 to S10, S12, S13 and S19. When the faults stop: L1 to L3 and L7.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amnode.node.policy import events as ev
from amnode.node.policy.options import PoolSize
from tests.unit.node.pool_world import Faults, World, options

ALL = Faults(
    kill=0.1,
    hang=0.02,
    cut=0.1,
    bad_start=0.2,
    no_spawn=0.1,
    client_dies=0.1,
    client_drops=0.1,
    unready=0.1,
    error=0.05,
    lag=0.002,
    stubborn=0.2,
    resize=0.2,
    drain=0.2,
    restart=0.05,
    supervisor_dies=0.1,
    stale=0.3,
)
LIMITS = {"leak_after": 0.5, "max_jobs": 20, "max_rss": 4000, "renew_jitter": 0.5}

SIZES = [PoolSize(2, 6, 2, 3), PoolSize(1, 1, 0, 1), PoolSize(0, 3, 0, 2), PoolSize(4, 4, 9, 1)]


def _rest(world: World) -> None:
    world.heal()
    world.run(world.now + 200.0)


def test_without_faults_every_request_is_served_and_nobody_is_ended() -> None:
    world = World(1, options(size=PoolSize(2, 6, 2, 6), linger=1000.0), Faults())
    world.misbehave(20.0)
    _rest(world)
    assert world.seen["action SendGrant"] > 50
    assert "action Kill" not in world.seen
    assert "action Terminate" not in world.seen
    assert world.core.view(world.now).counts.idle == len(world.core.roster)


@pytest.mark.parametrize("seed", range(12))
def test_with_all_faults_the_promises_hold_and_the_pool_heals(seed: int) -> None:
    world = World(seed, options(size=SIZES[seed % len(SIZES)], **LIMITS), ALL)
    world.misbehave(30.0)
    _rest(world)
    world.check_whole()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from(SIZES),
    faults=st.builds(
        Faults,
        kill=st.sampled_from([0.0, 0.3]),
        hang=st.sampled_from([0.0, 0.1]),
        cut=st.sampled_from([0.0, 0.5]),
        bad_start=st.sampled_from([0.0, 0.5, 1.0]),
        no_spawn=st.sampled_from([0.0, 0.5]),
        client_dies=st.sampled_from([0.0, 0.5]),
        client_drops=st.sampled_from([0.0, 0.5]),
        unready=st.sampled_from([0.0, 0.3]),
        error=st.sampled_from([0.0, 0.3]),
        lag=st.sampled_from([0.0, 0.01]),
        stubborn=st.sampled_from([0.0, 0.5]),
        resize=st.sampled_from([0.0, 0.5]),
        drain=st.sampled_from([0.0, 0.5]),
        restart=st.sampled_from([0.0, 0.3]),
        supervisor_dies=st.sampled_from([0.0, 0.3]),
        stale=st.sampled_from([0.0, 0.3]),
    ),
    limits=st.sampled_from([{}, LIMITS, {"max_jobs": 1, "renew_at_once": 3}]),
)
def test_with_any_faults_the_promises_hold_and_the_pool_heals(
    seed: int, size: PoolSize, faults: Faults, limits: dict[str, Any]
) -> None:
    world = World(seed, options(size=size, **limits), faults)
    world.misbehave(8.0)
    _rest(world)
    world.check_whole()


def test_at_rest_only_checks_go_on() -> None:
    world = World(3, options(), ALL)
    world.misbehave(10.0)
    _rest(world)
    world.seen.clear()
    world.run(world.now + 60.0)
    workers = len(world.core.roster)
    assert set(world.seen) == {"action Probe", "event CheckAnswered", "event Tick"}
    assert world.seen["action Probe"] <= workers * (60 / 0.3 + 1)


@pytest.mark.parametrize("seed", range(6))
def test_a_stop_under_load_leaves_nothing(seed: int) -> None:
    world = World(seed, options(stop_grace=1.0), replace(ALL, supervisor_dies=0.0))
    world.misbehave(5.0)
    world.feed(ev.StopRequested())
    world.misbehave(2.0)
    world.heal()
    world.run(world.now + 1.0 + 2 * world.options.term_timeout + 5.0)
    assert world.stopped
    assert world.core.next_deadline() is None
    view = world.core.view(world.now)
    assert view.stopped and view.counts.total == 0


#: The end of the walk, and what only a pool with peers does (`test_passing`).
ELSEWHERE = (
    ev.Stopped,
    ev.PassOn,
    ev.TakeBack,
    ev.GiveBack,
    ev.TellGone,
    ev.SendPassed,
)


def test_every_rare_branch_was_taken() -> None:
    seen: set[str] = set()
    for seed in range(6):
        world = World(seed, options(**LIMITS, max_age=4.0), ALL)
        world.misbehave(20.0)
        seen |= set(world.seen)
    expected = {f"action {a.__name__}" for a in ev.Action.__args__ if a not in ELSEWHERE}
    assert expected <= seen
