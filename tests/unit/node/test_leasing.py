"""Requests and leases, message by message."""

from __future__ import annotations

from typing import Any

import pytest

from amnode.node.policy import events as ev
from amnode.node.policy.roster import Condition
from tests.unit.node.pool_driver import Driver, rest
from tests.unit.node.pool_world import Facts


def test_a_request_is_served_granted_and_ends(idle: Driver) -> None:
    idle.ask()
    serve = idle.one(ev.Serve)
    assert (serve.worker_id, serve.expected_tick, serve.epoch) == ("w1", 0, 1)
    assert serve.waiter.worker_rpc_id == "rpc-c"
    assert idle.condition("w1") is Condition.HANDED_OVER
    idle.feed(ev.ServeAnswered("w1", 1, True))
    assert idle.done == [ev.SendGrant("c", "r1", "w1", 1)]
    idle.feed(idle.info("w1", 1, "rpc-c"))
    assert idle.condition("w1") is Condition.HANDED_OVER
    idle.feed(idle.info("w1", 1, "rpc-c", taken=True))
    assert idle.condition("w1") is Condition.LEASED
    idle.feed(idle.info("w1", 2))
    assert idle.condition("w1") is Condition.IDLE


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"kind": "z"}, ["'k'", "'z'"]),
        ({"schema_hash": "z"}, ["'h'", "'z'"]),
        ({"time_left": 0.0}, ["no time left"]),
        ({"time_left": float("nan")}, ["no time left"]),
    ],
)
def test_a_request_that_cannot_be_is_denied(
    idle: Driver, more: dict[str, Any], words: list[str]
) -> None:
    idle.ask(**more)
    denied = idle.one(ev.SendDenied)
    assert all(word in denied.reason for word in words)
    assert denied.timed_out == ("time_left" in more)


def test_a_request_is_had_once(idle: Driver) -> None:
    idle.ask()
    assert idle.ask() == []  # a worker is being asked
    idle.ask("r2")
    idle.ask("r3")
    assert idle.ask("r3") == []  # it waits
    assert idle.core.view(0.0).counts.waiting == 2


def test_who_waits_makes_the_pool_grow_up_to_its_quota(idle: Driver) -> None:
    idle.ask("r1")
    idle.ask("r2")
    assert idle.one(ev.Spawn).worker_id == "w2"
    idle.ask("r3")  # over its quota of two
    assert idle.none(ev.Spawn)
    idle.up("w2")
    assert "has 2 workers already" in idle.core.view(0.0).why_not_growing
    idle.ask("r4", client="d")
    assert idle.one(ev.Spawn).worker_id == "w3"
    idle.up("w3")
    idle.ask("r5", client="d")
    assert idle.core.view(0.0).why_not_growing == "there are 3 workers, of at most 3"


def test_a_request_times_out_while_it_waits_and_while_it_is_served(idle: Driver) -> None:
    idle.ask("r1", time_left=1.0)
    idle.ask("r2", time_left=1.0)
    idle.wait(1.0)
    denied = [a for a in idle.done if isinstance(a, ev.SendDenied)]
    assert {d.request_id for d in denied} == {"r1", "r2"} and all(d.timed_out for d in denied)
    assert idle.feed(ev.ServeAnswered("w1", 1, True)) == [ev.Withdraw("w1", 1)]


def test_a_refusal_puts_the_request_back_in_its_place(idle: Driver) -> None:
    idle.ask("r1")
    idle.ask("r2")
    idle.feed(ev.ServeAnswered("w1", 1, False, "busy"))
    assert idle.condition("w1") is Condition.IDLE
    assert idle.none(ev.Serve)  # it rests
    idle.wait(0.5)
    assert idle.one(ev.Serve).waiter.request_id == "r1"


def test_a_cancelled_request_costs_no_worker(idle: Driver) -> None:
    idle.ask("r1")
    idle.ask("r2")
    idle.feed(ev.Cancelled("c", "r2"), ev.Cancelled("c", "r9"), ev.Cancelled("c", "r1"))
    assert idle.feed(ev.ServeAnswered("w1", 1, True)) == [ev.Withdraw("w1", 1)]
    assert idle.feed(ev.ServeAnswered("w1", 1, True)) == []
    idle.feed(ev.WithdrawAnswered("w1", 1, True), idle.info("w1", 2))
    assert idle.condition("w1") is Condition.IDLE


def test_a_cancelled_request_that_is_refused_is_gone(idle: Driver) -> None:
    idle.ask("r1")
    idle.feed(ev.Cancelled("c", "r1"), ev.ServeAnswered("w1", 1, False))
    assert idle.core.view(0.0).counts.waiting == 0


def test_a_returned_grant_is_withdrawn_and_asked_again(granted: Driver) -> None:
    back = ev.Returned(client_id="c", request_id="r1", worker_id="w1", epoch=1, again=True)
    granted.feed(back)
    assert granted.one(ev.Withdraw) == ev.Withdraw("w1", 1)
    assert granted.core.view(0.0).counts.waiting == 1
    assert granted.ask() == []  # it waits already
    granted.feed(granted.info("w1", 2))
    assert granted.one(ev.Serve).expected_tick == 2


@pytest.mark.parametrize(
    ("worker_id", "epoch", "client"), [("w9", 1, "c"), ("w1", 3, "c"), ("w1", 1, "thief")]
)
def test_only_its_holder_returns_a_grant(
    granted: Driver, worker_id: str, epoch: int, client: str
) -> None:
    back = ev.Returned(client_id=client, request_id="r1", worker_id=worker_id, epoch=epoch)
    assert granted.feed(back) == []


def test_a_grant_is_returned_after_it_was_taken(granted: Driver) -> None:
    granted.feed(granted.info("w1", 1, "rpc-c", taken=True))
    back = ev.Returned(client_id="c", request_id="r1", worker_id="w1", epoch=1)
    assert granted.feed(back) == []  # the worker's grace ends it
    assert granted.condition("w1") is Condition.LEASED


def test_a_refused_withdrawal_shows_that_it_was_taken(granted: Driver) -> None:
    granted.feed(ev.ClientGone("c"))
    assert granted.done == [ev.Withdraw("w1", 1)]
    granted.feed(ev.WithdrawAnswered("w9", 1, False), ev.WithdrawAnswered("w1", 3, False))
    assert granted.condition("w1") is Condition.HANDED_OVER
    granted.feed(ev.WithdrawAnswered("w1", 1, False))
    assert granted.condition("w1") is Condition.LEASED
    assert granted.feed(ev.ClientGone("c")) == []  # a lease outlives that connection


def test_what_cannot_be_withdrawn_now_is_withdrawn_on_the_next_connection(
    granted: Driver,
) -> None:
    granted.feed(ev.ConnectionLost("w1"), ev.ClientGone("c"))
    assert granted.none(ev.Withdraw)
    granted.wait(0.5)
    granted.link("w1", 1, "rpc-c")
    granted.feed(granted.info("w1", 1, "rpc-c"))
    assert granted.one(ev.Withdraw).epoch == 1


def test_a_client_that_goes_leaves_the_queue(idle: Driver) -> None:
    idle.ask("r1")
    idle.ask("r2")
    idle.feed(ev.ClientGone("c"))
    assert idle.core.view(0.0).counts.waiting == 0
    assert idle.feed(ev.ServeAnswered("w1", 1, True)) == [ev.Withdraw("w1", 1)]


def test_answers_about_what_is_over_are_ignored(idle: Driver) -> None:
    assert idle.feed(ev.ServeAnswered("w1", 1, True)) == []
    assert idle.feed(ev.ServeAnswered("w9", 1, True)) == []
    assert idle.feed(ev.RetireAnswered("w1", True)) == []
    assert idle.feed(ev.WithdrawAnswered("w1", 1, False)) == []


# -- leases that are held too long ---------------------------------------------------------


def test_a_lease_held_too_long_is_told_once() -> None:
    driver = Driver(leak_after=10.0)
    driver.feed(ev.Tick())
    driver.up("w1")
    driver.ask()
    driver.feed(ev.ServeAnswered("w1", 1, True))
    rest(driver, 4.0)
    for _ in range(2):
        driver.feed(driver.info("w1", 1, "rpc-c", taken=True))
    rest(driver, 9.0)
    assert driver.none(ev.ReportLeak)
    rest(driver, 1.0)
    assert driver.one(ev.ReportLeak) == ev.ReportLeak("w1", "c", 1, 10.0)
    rest(driver, 100.0)
    assert driver.none(ev.ReportLeak)


@pytest.mark.parametrize("end", ["word", "exit"])
def test_a_lease_that_ended_is_not_told_of(end: str) -> None:
    driver = Driver(leak_after=10.0)
    driver.feed(ev.Tick())
    driver.up("w1")
    driver.feed(driver.info("w1", 1, "stranger", taken=True))
    assert driver.condition("w1") is Condition.LEASED
    if end == "word":
        driver.feed(driver.info("w1", 2))
    else:
        driver.feed(ev.Exited("w1", Facts(1, signal="SIGKILL")))
    rest(driver, 20.0)
    assert driver.none(ev.ReportLeak)


# -- a drain -------------------------------------------------------------------------------


def test_a_drain_grants_nothing_and_does_not_grow_for_who_waits(granted: Driver) -> None:
    granted.feed(ev.DrainRequested())
    granted.ask("r2")
    assert granted.none(ev.Serve) and granted.none(ev.Spawn)
    view = granted.core.view(0.0)
    assert view.draining and not view.drained and not view.workers_available
    assert view.why_not_growing == "the pool is draining, and grants no leases"
    granted.feed(granted.info("w1", 1, "rpc-c", taken=True), granted.info("w1", 2))
    view = granted.core.view(0.0)
    assert view.drained and view.counts.waiting == 1
    rest(granted, 9.0)
    assert "draining" in granted.one(ev.SendDenied).reason
    granted.ask("r3")
    granted.feed(ev.DrainRequested(on=False))
    assert granted.one(ev.Serve).waiter.request_id == "r3"
