from __future__ import annotations

import math
from typing import Any

import pytest

from amnode.errors import OptionError
from amnode.node.policy.options import (
    ClientOptions,
    LeaseTerms,
    PoolSize,
    SupervisorOptions,
    WorkerOptions,
    table,
)

ALL = (PoolSize, LeaseTerms, SupervisorOptions, WorkerOptions, ClientOptions)


def test_defaults_are_those_of_the_reference() -> None:
    options = SupervisorOptions()
    size = options.size
    assert (size.min, size.max, size.warm, size.max_per_client) == (2, 10, 5, 10)
    assert (options.conn_timeout, options.delivery_timeout, options.op_timeout) == (5, 5, 1)
    assert (options.heartbeat, options.worker_check_interval) == (60, 1)
    assert (options.pool_pause, options.healthcheck_pause) == (5, 0.5)
    assert options.worker_err_ttl == 600
    assert (options.worker_err_recent, options.worker_err_kill) == (60, 3)
    assert (options.linger, options.grace, options.maximum) == (60, 2, None)
    assert (options.restart_intensity, options.restart_period) == (5, 30)
    assert ClientOptions().request_wait == 30


@pytest.mark.parametrize("cls", ALL)
def test_every_option_has_a_row_and_its_default_is_accepted(cls: type[Any]) -> None:
    for row in table(cls):
        assert row.name and row.bounds.why and row.bounds.unit in ("s", "number", "share")
        assert row.default is None or row.default >= row.bounds.least
    cls()


@pytest.mark.parametrize("cls", ALL)
def test_a_value_below_the_least_is_refused_by_name(cls: type[Any]) -> None:
    for row in table(cls):
        with pytest.raises(
            OptionError, match=rf"{row.name} is .*at least {row.bounds.least:g}"
        ):
            cls(**{row.name: row.bounds.least - 1})


@pytest.mark.parametrize("bad", [True, "5", None, math.nan, math.inf])
def test_what_is_no_number_is_refused(bad: Any) -> None:
    with pytest.raises(OptionError, match="conn_timeout is"):
        SupervisorOptions(conn_timeout=bad)


def test_a_number_must_be_whole_and_a_share_at_most_one() -> None:
    with pytest.raises(OptionError, match="must be a whole number"):
        SupervisorOptions(worker_err_kill=2.5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="at most 1"):
        SupervisorOptions(back_off_jitter=1.5)


def test_what_is_off_may_be_none_or_a_time() -> None:
    assert LeaseTerms(maximum=None).maximum is None
    assert SupervisorOptions(maximum=7, grace=1).terms == LeaseTerms(maximum=7, grace=1)


def test_a_hang_is_known_within_16_s_by_default_and_4_s_without_an_answer_are_none() -> None:
    options = SupervisorOptions()
    checks = 3 * options.check_timeout + 2 * options.healthcheck_pause
    assert options.worker_check_interval + checks <= 16
    assert options.check_timeout > 4
    assert options.start_timeout == 30


def test_sizes_are_clamped() -> None:
    assert PoolSize(min=7, max=3).min == 3
    assert PoolSize(max=3).max_per_client == 3
    assert PoolSize(max_per_client=1).max_per_client == 1
