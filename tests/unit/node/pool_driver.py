"""A pool's core, fed event by event: a worker and a client are whatever a test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from amnode.node.args import WorkerInfo
from amnode.node.policy import events as ev
from amnode.node.policy.core import PoolCore
from amnode.node.policy.options import PoolSize, SupervisorOptions
from amnode.node.policy.roster import Condition

A = TypeVar("A")


class Driver:
    """Feeds the core and keeps what it asked for; a worker is whatever the test says."""

    def __init__(
        self,
        size: PoolSize | None = None,
        *,
        draw: Callable[[], float] = lambda: 0.0,
        **more: Any,
    ) -> None:
        given = {"start_timeout": 5.0, "check_timeout": 5.0, **more}
        self.options = SupervisorOptions(size=size or PoolSize(1, 3, 0, 2), **given)
        self.core = PoolCore(
            self.options,
            kind="k",
            schema_hash="h",
            name_worker=lambda n: f"w{n}",
            draw=draw,
        )
        self.now = 0.0
        self.done: list[ev.Action] = []

    def feed(self, *events: ev.Event) -> list[ev.Action]:
        done: list[ev.Action] = []
        for event in events:
            done += self.core.handle(event, self.now)
            self.core.check()
        self.done = done
        return done

    def wait(self, seconds: float) -> list[ev.Action]:
        """Let time pass, with a tick at each deadline."""
        end, done = self.now + seconds, list[ev.Action]()
        while (at := self.core.next_deadline()) is not None and at <= end:
            self.now = at
            done += self.feed(ev.Tick())
        self.now = end
        self.done = done
        return done

    def one(self, kind: type[A]) -> A:
        (found,) = [a for a in self.done if isinstance(a, kind)]
        return found

    def none(self, kind: type[Any]) -> bool:
        return not [a for a in self.done if isinstance(a, kind)]

    def condition(self, worker_id: str) -> Condition:
        member = self.core.roster.get(worker_id)
        assert member is not None
        return member.condition

    def info(self, worker_id: str, tick: int, client: str = "", **more: Any) -> ev.InfoReceived:
        given = {"kind": "k", "schema_hash": "h", **more}
        info = WorkerInfo(worker_id=worker_id, leased_tick=tick, client_id=client, **given)
        return ev.InfoReceived(worker_id, info)

    def up(self, worker_id: str = "w1") -> None:
        """A worker starts well."""
        self.feed(ev.Started(worker_id, 1), ev.CalledBack(worker_id, "unix:x"))
        self.link(worker_id)

    def link(self, worker_id: str, tick: int = 0, client: str = "", **more: Any) -> None:
        self.feed(
            ev.Connected(worker_id),
            ev.ReadyChanged(worker_id, True),
            self.info(worker_id, tick, client, **more),
        )

    def ask(self, request: str = "r1", client: str = "c", **more: Any) -> list[ev.Action]:
        given = {
            "name": client,
            "time_left": 9.0,
            "kind": "k",
            "schema_hash": "h",
            "worker_rpc_id": f"rpc-{client}",
            **more,
        }
        return self.feed(ev.Requested(client_id=client, request_id=request, **given))


def rest(driver: Driver, seconds: float) -> list[ev.Action]:
    """Time passes and all workers answer their checks."""
    end, done = driver.now + seconds, list[ev.Action]()
    while (at := driver.core.next_deadline()) is not None and at <= end:
        driver.now = at
        actions = driver.feed(ev.Tick())
        while actions:
            done += actions
            checks = [a for a in actions if isinstance(a, ev.Probe)]
            actions = driver.feed(*(ev.CheckAnswered(a.worker_id, a.check) for a in checks))
    driver.now = end
    driver.done = done
    return done
