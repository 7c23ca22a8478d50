"""Which supervisor a worker belongs to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.node.policy.owner import Claim, Owner, is_stale

claims = st.builds(
    Claim, st.integers(1, 4), st.text("0123456789abcdef", min_size=1, max_size=3)
)


@given(claim=claims, probe=st.booleans())
def test_a_claim_is_in_the_id_of_a_connection(claim: Claim, probe: bool) -> None:
    assert Claim.of(claim.connection_id("ns-me@1.a", probe=probe)) == claim


@pytest.mark.parametrize(
    "id", ["", "rc-ns-me", "rc-ns-me@1", "rc-ns-me@x.ab", "rc-ns-me@1.a\n"]
)
def test_what_shows_no_claim_is_let_in_by_nobody(id: str) -> None:
    assert Claim.of(id) is None
    refusal = Owner().refusal(None)
    assert refusal and not is_stale(refusal)


def test_a_higher_generation_takes_over_and_a_lower_one_is_stale_for_good() -> None:
    owner, first, second = Owner(), Claim(1, "aa"), Claim(2, "bb")
    assert owner.refusal(first) == ""
    owner.came(first)
    assert owner.is_owner(first) and owner.refusal(second) == ""
    owner.came(second)
    assert owner.is_owner(second) and not owner.is_owner(first)
    owner.left(first)
    owner.left(second)
    assert is_stale(owner.refusal(first)) and "generation 1" in owner.refusal(first)


def test_an_equal_one_of_another_instance_waits_until_the_first_is_gone() -> None:
    owner, first, twin = Owner(), Claim(1, "aa"), Claim(1, "bb")
    owner.came(first)
    owner.came(first)  # its probe
    assert "copy" in owner.refusal(twin) and is_stale(owner.refusal(twin))
    assert owner.refusal(first) == ""
    owner.left(first)
    assert owner.refusal(twin)
    owner.left(first)
    assert owner.refusal(twin) == ""
    owner.came(twin)
    owner.left(None)
    assert is_stale(owner.refusal(first))


@given(st.lists(st.tuples(claims, st.booleans())))
def test_the_generation_that_is_served_never_falls(steps: list[tuple[Claim, bool]]) -> None:
    owner, highest, connected = Owner(), 0, list[Claim]()
    for claim, leaves in steps:
        if not owner.refusal(claim):
            assert claim.generation >= highest
            assert not [c for c in connected if c != claim and c.generation == claim.generation]
            highest = claim.generation
            owner.came(claim)
            connected = [c for c in connected if c == claim] + [claim]
        if leaves and connected:
            owner.left(connected.pop())
