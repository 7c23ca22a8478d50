"""Passing requests on to peers: when, to whom, how each way of it ends, and what guests are."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.node.args import Grant
from amnode.node.policy import events as ev
from amnode.node.policy.options import PoolSize
from tests.unit.node.pool_driver import Driver


def _grant(request: str = "r2", worker: str = "p1", epoch: int = 1) -> Grant:
    return Grant(
        request_id=request, worker_id=worker, epoch=epoch, address="unix:p", secret=b"s"
    )


@pytest.fixture
def full() -> Driver:
    """A pool of one worker, which is leased; `r2` would wait."""
    driver = Driver(size=PoolSize(1, 1, 0, 9))
    driver.feed(ev.Tick())
    driver.up()
    driver.ask()
    driver.feed(ev.ServeAnswered("w1", 1, True), driver.info("w1", 1, "rpc-c", taken=True))
    return driver


@pytest.fixture
def asked(full: Driver) -> Driver:
    """The same, and a peer was asked for `r2`."""
    full.feed(ev.PeerSaid("p", 1))
    full.ask("r2")
    assert [type(a) for a in full.done] == [ev.PassOn]
    return full


@pytest.fixture
def granted(asked: Driver) -> Driver:
    """The same, and the peer granted a worker of its own."""
    assert asked.feed(ev.PeerGranted("p", "c", _grant())) == [ev.SendPassed("c", _grant())]
    return asked


def _waiting(driver: Driver) -> int:
    return driver.core.view(driver.now).counts.waiting


def _back(driver: Driver, *, again: bool) -> list[ev.Action]:
    back = ev.Returned(client_id="c", request_id="r2", worker_id="p1", epoch=1, again=again)
    return driver.feed(back)


# -- who is asked --------------------------------------------------------------------------


def test_nobody_is_asked_who_has_nothing_to_spare(full: Driver) -> None:
    assert full.ask("r2") == []
    assert full.feed(ev.PeerSaid("p", 0)) == []
    assert _waiting(full) == 1
    (passed,) = full.feed(ev.PeerSaid("p", 1))
    assert isinstance(passed, ev.PassOn)
    assert passed.waiter.request_id == "r2"
    assert passed.time_left == 9.0
    assert _waiting(full) == 0


def test_no_peer_is_asked_for_more_than_it_has(full: Driver) -> None:
    full.feed(ev.PeerSaid("p", 1), ev.PeerSaid("q", 2))
    done = [*full.ask("r2"), *full.ask("r3"), *full.ask("r4"), *full.ask("r5")]
    asked = [(a.peer, a.waiter.request_id) for a in done if isinstance(a, ev.PassOn)]
    assert asked == [("q", "r2"), ("q", "r3"), ("p", "r4")]
    assert _waiting(full) == 1


def test_all_that_wait_are_passed_on_at_once_if_a_peer_can_serve_them(full: Driver) -> None:
    full.ask("r2")
    full.ask("r3")
    done = full.feed(ev.PeerSaid("p", 2))
    assert [a.waiter.request_id for a in done if isinstance(a, ev.PassOn)] == ["r2", "r3"]


def test_nobody_is_asked_while_a_worker_is_to_come() -> None:
    driver = Driver(size=PoolSize(1, 2, 0, 9))
    driver.feed(ev.Tick(), ev.PeerSaid("p", 5))
    assert driver.ask() == []  # its worker starts
    spawned = driver.ask("r2")
    assert [type(a) for a in spawned] == [ev.Spawn]
    (passed,) = driver.ask("r3")
    assert isinstance(passed, ev.PassOn)


def test_a_draining_pool_passes_everything_on(full: Driver) -> None:
    full.feed(ev.PeerSaid("p", 2), ev.Resized(PoolSize(1, 5, 0, 9)), ev.DrainRequested())
    assert [type(a) for a in full.ask("r2")] == [ev.PassOn]


def test_a_request_that_is_with_a_peer_is_not_made_twice(asked: Driver) -> None:
    assert asked.ask("r2") == []
    assert _waiting(asked) == 0


# -- how it ends ---------------------------------------------------------------------------


def test_one_that_is_declined_waits_here_and_is_not_passed_to_it_at_once(
    asked: Driver,
) -> None:
    assert asked.feed(ev.PeerDenied("p", "c", "r2"), ev.PeerSaid("p", 3)) == []
    assert _waiting(asked) == 1
    assert [type(a) for a in asked.feed(ev.PeerSaid("q", 1))] == [ev.PassOn]
    assert asked.feed(ev.PeerDenied("p", "c", "r2")) == []  # that was answered before
    asked.feed(ev.PeerDenied("q", "c", "r2"))
    asked.now += 1.0
    (again,) = [a for a in asked.feed(ev.Tick()) if isinstance(a, ev.PassOn)]
    assert again.waiter.request_id == "r2"


def test_one_that_was_declined_holds_up_nobody(asked: Driver) -> None:
    asked.feed(ev.PeerDenied("p", "c", "r2"), ev.PeerSaid("p", 1))
    (passed,) = asked.ask("r3")
    assert isinstance(passed, ev.PassOn)
    assert passed.waiter.request_id == "r3"
    assert _waiting(asked) == 1


def test_one_whose_peer_is_lost_waits_here_in_its_old_place(asked: Driver) -> None:
    asked.ask("r3")
    asked.feed(ev.PeerLost("p"))
    assert _waiting(asked) == 2
    (serve,) = [a for a in asked.feed(asked.info("w1", 2)) if isinstance(a, ev.Serve)]
    assert serve.waiter.request_id == "r2"


def test_a_peer_that_is_lost_takes_no_grant_with_it(granted: Driver) -> None:
    assert granted.feed(ev.PeerLost("p")) == []
    assert _waiting(granted) == 0


def test_one_ends_at_its_deadline(asked: Driver) -> None:
    asked.now += 9.0
    done = asked.feed(ev.Tick())
    assert ev.TakeBack("p", "c", "r2") in done
    (denied,) = [a for a in done if isinstance(a, ev.SendDenied)]
    assert (denied.request_id, denied.timed_out) == ("r2", True)


def test_a_granted_one_is_forgotten_at_its_deadline(granted: Driver) -> None:
    granted.now += 9.0
    done = granted.feed(ev.Tick())
    assert not [a for a in done if isinstance(a, ev.TakeBack | ev.SendDenied)]
    assert _back(granted, again=False) == []


def test_one_that_its_client_takes_back(asked: Driver) -> None:
    assert asked.feed(ev.Cancelled("c", "r2")) == [ev.TakeBack("p", "c", "r2")]
    assert asked.feed(ev.Cancelled("c", "r2")) == []


def test_a_grant_that_nobody_wants_any_more_goes_back(asked: Driver) -> None:
    asked.feed(ev.Cancelled("c", "r2"))
    done = asked.feed(ev.PeerGranted("p", "c", _grant()))
    assert done == [ev.GiveBack("p", "c", "r2", "p1", 1)]


@pytest.mark.parametrize("again", [False, True])
def test_a_grant_that_is_returned(granted: Driver, again: bool) -> None:
    assert _back(granted, again=again) == [ev.GiveBack("p", "c", "r2", "p1", 1)]
    assert _waiting(granted) == again
    assert _back(granted, again=again) == []


def test_a_client_that_is_gone(granted: Driver) -> None:
    assert granted.feed(ev.ClientGone("c")) == [ev.TellGone("p", "c")]
    assert granted.feed(ev.ClientGone("c")) == []


def test_a_pool_that_stops_takes_back_what_is_asked(asked: Driver) -> None:
    done = asked.feed(ev.StopRequested())
    assert ev.TakeBack("p", "c", "r2") in done
    assert [a.request_id for a in done if isinstance(a, ev.SendDenied)] == ["r2"]


def test_a_pool_that_stops_has_nobody_wait_again(granted: Driver) -> None:
    granted.feed(ev.StopRequested())
    assert ev.GiveBack("p", "c", "r2", "p1", 1) in _back(granted, again=True)
    assert _waiting(granted) == 0


# -- guests --------------------------------------------------------------------------------


def test_a_guest_is_served_by_an_idle_worker() -> None:
    driver = Driver(size=PoolSize(1, 1, 0, 9))
    driver.feed(ev.Tick())
    driver.up()
    assert driver.core.view(driver.now).spare == 1
    assert [type(a) for a in driver.ask(guest=True)] == [ev.Serve]
    assert driver.core.view(driver.now).spare == 0


def test_a_guest_is_declined_where_there_is_nothing_to_spare(full: Driver) -> None:
    full.feed(ev.PeerSaid("p", 5))
    (denied,) = full.ask("r2", guest=True)
    assert isinstance(denied, ev.SendDenied)
    assert not denied.timed_out


def test_a_guest_past_its_quota_is_declined() -> None:
    driver = Driver(size=PoolSize(1, 3, 0, 1))
    driver.feed(ev.Tick())
    assert driver.ask("r1", guest=True) == []
    assert [type(a) for a in driver.ask("r2", guest=True)] == [ev.SendDenied]


def test_a_guest_whose_worker_does_not_come_is_declined_and_not_passed_on() -> None:
    driver = Driver(size=PoolSize(1, 1, 0, 9))
    driver.feed(ev.Tick(), ev.PeerSaid("p", 5))
    assert driver.ask(guest=True) == []
    done = driver.feed(ev.DrainRequested())
    assert [type(a) for a in done] == [ev.SendDenied]


# -- any order -----------------------------------------------------------------------------


class Walk:
    """One client of a pool, and two peers that say whatever comes to them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.driver = Driver(size=PoolSize(1, 1, 0, 9))
        self.made: list[str] = []
        self.ended: list[str] = []

    def took(self, actions: list[ev.Action]) -> None:
        for action in actions:
            if isinstance(action, ev.SendDenied):
                self.ended.append(action.request_id)
            elif isinstance(action, ev.SendPassed):
                self.ended.append(action.grant.request_id)

    def ask(self) -> None:
        self.made.append(f"r{len(self.made)}")
        self.took(self.driver.ask(self.made[-1]))

    def step(self) -> None:
        peer, request = self.rng.choice("pq"), self.rng.choice(self.made)
        event = self.rng.choice(
            [
                ev.PeerSaid(peer, self.rng.randrange(3)),
                ev.PeerLost(peer),
                ev.PeerGranted(peer, "c", _grant(request)),
                ev.PeerDenied(peer, "c", request),
                ev.Tick(),
            ]
        )
        self.driver.now += self.rng.random() * isinstance(event, ev.Tick)
        self.took(self.driver.feed(event))


@given(st.integers(0, 2**32), st.booleans())
def test_each_request_ends_once_whatever_comes(seed: int, stops: bool) -> None:
    walk = Walk(seed)
    walk.ask()
    for _ in range(40):
        walk.step()
        if walk.rng.random() < 0.3:
            walk.ask()
    if stops:
        walk.took(walk.driver.feed(ev.StopRequested()))
    walk.driver.now += 100.0
    walk.took(walk.driver.feed(ev.Tick()))
    assert sorted(walk.ended) == sorted(walk.made)
