"""The judge of a supervisor: what a core may say, and what it may not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from amnode.errors import Cause, PromiseBroken
from amnode.node.args import CrashReport, WorkerInfo
from amnode.node.policy import events as ev
from amnode.node.policy.core import PoolCore
from amnode.node.policy.lease import Stage
from amnode.node.policy.options import PoolSize, SupervisorOptions
from amnode.node.policy.roster import Doom, Member
from amnode.node.policy.waitlist import Waiter
from amnode.testing.safety import PoolSafety, WorkerFacts

REQUEST = ev.Requested(
    client_id="c",
    name="n",
    request_id="r",
    time_left=9.0,
    kind="k",
    schema_hash="h",
    worker_rpc_id="rpc",
)


class Facts(msgspec.Struct, frozen=True):
    pid: int = 1
    exit_code: int | None = None
    signal: str = "SIGKILL"
    known: bool = True


class Told:
    """A core with one worker, its judge, and what the worker is in truth."""

    def __init__(self, **options: Any) -> None:
        given = {"size": PoolSize(1, 1, 0), "restart_intensity": 1, **options}
        self.core = PoolCore(
            SupervisorOptions(**given),
            kind="k",
            schema_hash="h",
            name_worker=lambda n: f"w{n}",
            draw=lambda: 0.0,
        )
        self.facts: WorkerFacts | None = None
        self.safety = PoolSafety("s", self.core, lambda _: self.facts)
        self.now = 0.0
        self.feed(ev.Tick())

    def feed(self, event: ev.Event) -> list[ev.Action]:
        actions = self.core.handle(event, self.now)
        self.safety.decided(event, actions, self.now)
        return actions

    def say(self, *actions: ev.Action) -> None:
        self.safety.decided(ev.Tick(), actions, self.now)

    @property
    def member(self) -> Member:
        return next(iter(self.core.roster))

    def idle(self) -> Told:
        worker = self.member.worker_id
        self.feed(ev.Started(worker, 1))
        self.feed(ev.CalledBack(worker, "unix:w"))
        self.feed(ev.Connected(worker))
        self.feed(ev.ReadyChanged(worker, True))
        self.feed(ev.InfoReceived(worker, self.info()))
        return self

    def info(self, tick: int = 0, client: str = "") -> WorkerInfo:
        return WorkerInfo(
            worker_id="w1", kind="k", schema_hash="h", leased_tick=tick, client_id=client
        )

    def truth(self, *, tick: int = 1, client: str = "rpc", **more: Any) -> None:
        self.facts = WorkerFacts(
            **{
                "worker_id": "w1",
                "alive": True,
                "tick": tick,
                "leased": bool(client),
                "stage": Stage.HELD,
                "epoch": tick,
                "client_id": client,
                "end": None,
                "sessions": (),
                "running": True,
                "told_to_end": False,
                **more,
            }
        )

    def granted(self) -> Told:
        self.idle()
        self.feed(REQUEST)
        self.truth()
        self.feed(ev.ServeAnswered("w1", 1, True))
        return self


def test_a_lease_from_its_request_to_its_end_is_right() -> None:
    told = Told().granted()
    told.feed(ev.InfoReceived("w1", told.info(1, "rpc")))
    told.truth(tick=2, client="")
    told.feed(ev.InfoReceived("w1", told.info(2)))
    told.truth(tick=2, client="", alive=False)
    told.feed(ev.Exited("w1", Facts()))
    assert told.core.roster.get("w1") is None


def test_a_stop_is_right_once_nobody_is_left() -> None:
    told = Told().idle()
    told.now = 1.0
    told.feed(ev.StopRequested(grace=0.0))
    told.truth(tick=0, client="")
    told.feed(ev.RetireAnswered("w1", True))
    told.truth(tick=0, client="", alive=False)
    assert ev.Stopped() in told.feed(ev.Exited("w1", Facts(exit_code=0, signal="")))


def test_who_came_later_may_wait_on_and_the_dead_may_retire() -> None:
    told = Told().granted()
    told.core.waitlist.add("d", "m", "q", "rpc2", 9.0)
    told.say(ev.Serve("w1", Waiter("c", "n", "r", "rpc", 9.0, 0), 0, 1))
    told.truth(alive=False)
    told.safety.decided(ev.RetireAnswered("w1", True), [], 0.0)


def test_a_hang_may_be_ended_even_while_it_serves() -> None:
    told = Told().granted()
    told.member.doom = Doom("it hangs", Cause.HANG)
    told.core.roster.refresh(told.member, 0.0)
    told.say(ev.Kill("w1", "it hangs", 1))


def _broken_core(told: Told) -> None:
    told.core.roster.ready += 1
    told.feed(ev.Tick())


def _freed(told: Told) -> None:
    told.feed(ev.InfoReceived("w1", told.info(2)))


def _retired(told: Told) -> None:
    told.safety.decided(ev.RetireAnswered("w1", True), [], 0.0)


def _doomed(told: Told) -> None:
    told.member.doom = Doom("for no reason")
    told.core.roster.refresh(told.member, 0.0)
    told.say(ev.Terminate("w1", "for no reason"))


def _idle_doomed(told: Told) -> None:
    told.truth(client="")
    _doomed(told)


def _overtaken(told: Told) -> None:
    told.core.waitlist.add("d", "m", "q", "rpc2", 9.0)
    told.core.waitlist.add("e", "o", "q", "rpc3", 9.0)
    told.core._settle()
    late = Waiter("e", "o", "q", "rpc3", 9.0, 99)
    told.say(ev.Serve("w1", late, 0, 1))


def _report(cause: str) -> CrashReport:
    return CrashReport(cause=cause, message="it died")


WRONG: dict[str, tuple[str, Any]] = {
    "its own check fails": ("check", _broken_core),
    "free by hearsay": ("S8", _freed),
    "retired while it serves": ("S12", _retired),
    "granted twice": ("S3", lambda t: t.say(ev.SendGrant("c", "r", "w1", 1))),
    "granted unasked": ("S8", lambda t: t.say(ev.SendGrant("c", "r", "w1", 7))),
    "overtaken": ("S10", _overtaken),
    "a stranger is signalled": ("S11", lambda t: t.say(ev.Kill("x", "", 1))),
    "signalled while it serves": ("S12", _doomed),
    "signalled for nothing": ("S11", _idle_doomed),
    "forgotten alive": ("S7", lambda t: t.say(ev.Forget("w1", None, True, False))),
    "stopped too early": ("S7", lambda t: t.say(ev.Stopped())),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_core_may_not_say_is_found_out(what: str) -> None:
    promise, do = WRONG[what]
    told = Told().granted()
    with pytest.raises(PromiseBroken, match=promise):
        do(told)


def test_a_death_without_a_cause_is_found_out() -> None:
    told = Told()
    with pytest.raises(PromiseBroken, match="S20"):
        told.say(ev.Forget("w1", _report("bad luck"), False, True))
    told.say(ev.Forget("w1", _report(Cause.SIGNAL), False, True))


def test_too_many_starts_in_a_period_are_found_out() -> None:
    told = Told()
    told.now = 1.0
    told.say(ev.Forget("w0", _report(Cause.SIGNAL), False, True))
    told.say(ev.Spawn("w2", 2))
    with pytest.raises(PromiseBroken, match="S13"):
        told.say(ev.Spawn("w3", 3))
    told.now = 100.0
    told.say(ev.Spawn("w4", 4))


def test_starts_are_free_again_once_one_has_settled() -> None:
    told = Told(restart_settle=1.0)
    told.say(ev.Forget("w0", _report(Cause.SIGNAL), False, True))
    told.member.started_at = 0.5
    told.idle()
    told.now = 5.0
    told.say(ev.Spawn("w2", 2), ev.Spawn("w3", 3))
