from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from amnode.testing.faults import (
    MOMENTS,
    ON_OTHERS,
    ON_STARTS,
    ON_WORKERS,
    STATES,
    Kind,
    scenario,
)


def test_every_kind_hits_workers_or_starts_or_others() -> None:
    others = {
        Kind.GARBAGE,
        Kind.REPLAY,
        *ON_OTHERS,
    }
    assert {*ON_WORKERS, *ON_STARTS, *others} == {*Kind}
    assert len(ON_WORKERS) + len(ON_STARTS) + len(others) == len(Kind)
    assert {*MOMENTS} < {*STATES}


@given(st.integers(0, 2**32))
def test_the_same_seed_draws_the_same_scenario_with_faults_in_order(seed: int) -> None:
    drawn = scenario(Random(seed))
    assert drawn == scenario(Random(seed))
    times = [fault.at for fault in drawn.faults]
    assert times == sorted(times)
    assert all(0 <= at <= drawn.seconds for at in times)
    assert drawn.patience > drawn.pool.restart_period


def test_only_the_kinds_that_are_allowed_occur() -> None:
    kinds = (Kind.KILL, Kind.RESET)
    drawn = [scenario(Random(seed), kinds) for seed in range(20)]
    assert {fault.kind for one in drawn for fault in one.faults} == {*kinds}
    assert not scenario(Random(1), ()).faults


def test_each_kind_occurs_in_some_seed_and_is_missing_in_another() -> None:
    seen = [{fault.kind for fault in scenario(Random(seed)).faults} for seed in range(60)]
    assert set.union(*seen) == {*Kind}
    assert set.intersection(*seen) == set()
