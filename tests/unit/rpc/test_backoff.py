from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amnode.rpc.backoff import Backoff
from amnode.rpc.options import RpcOptions


def test_the_bound_doubles_up_to_its_cap() -> None:
    backoff = Backoff(RpcOptions(reconnect_base=1, reconnect_cap=5, reconnect_timeout=1e9), 0)
    assert [backoff.next(0, 1) for _ in range(6)] == [1, 2, 4, 5, 5, 5]
    assert backoff.tries == 6


def test_the_delay_is_drawn_from_zero_to_the_bound() -> None:
    backoff = Backoff(RpcOptions(reconnect_base=1, reconnect_cap=5), 0)
    assert [backoff.next(0, draw) for draw in (0.5, 0, 0.5, 0.25)] == [0.5, 0, 2, 1.25]


def test_attempts_are_bounded_in_number_and_in_time() -> None:
    backoff = Backoff(RpcOptions(reconnect_tries=2), 0)
    assert [backoff.next(0, 0) for _ in range(3)] == [0, 0, None]
    assert backoff.exhausted() == "2 attempts to come back failed"
    late = Backoff(RpcOptions(reconnect_timeout=10, reconnect_base=5), 100)
    assert (late.next(100, 1), late.left(100)) == (5, 10)
    assert late.next(109, 1) == 1  # no later than the end
    assert late.next(110, 1) is None
    assert late.left(111) == 0


def test_without_tries_there_is_no_attempt() -> None:
    assert Backoff(RpcOptions(reconnect_tries=0), 0).next(0, 0) is None


@given(
    st.integers(0, 100),
    st.floats(0.001, 10),
    st.floats(0, 100),
    st.floats(0, 100),
    st.floats(0, 1),
)
def test_a_delay_is_never_over_the_cap_nor_after_the_end(
    tries: int, base: float, cap: float, timeout: float, draw: float
) -> None:
    options = RpcOptions(
        reconnect_tries=tries,
        reconnect_base=base,
        reconnect_cap=max(base, cap),
        reconnect_timeout=timeout,
    )
    backoff, now = Backoff(options, 0), 0.0
    made = 0
    while made <= tries and (delay := backoff.next(now, draw)) is not None:
        assert 0 <= delay <= options.reconnect_cap
        assert now + delay <= timeout + 1e-9
        now += delay
        made += 1
    assert made == backoff.tries <= tries
