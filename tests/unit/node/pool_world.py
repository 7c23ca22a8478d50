"""A pool's core among simulated workers and clients, from one seed, checked at every step.

The core and the leases are the real ones; processes, connections and clients are small fakes
that lose, delay and die as `Faults` says. Messages of one connection keep their order, and
what is under way on one that breaks is lost.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from amnode.errors import Cause
from amnode.node.args import WorkerInfo
from amnode.node.policy import events as ev
from amnode.node.policy.core import PoolCore
from amnode.node.policy.lease import ClientLeases, End, Stage, WorkerLease
from amnode.node.policy.options import PoolSize, SupervisorOptions
from amnode.node.policy.roster import SERVING, Condition

KIND, HASH = "k", "h"


@dataclass(frozen=True)
class Faults:
    """Chances of each, a second or an occasion."""

    kill: float = 0.0
    hang: float = 0.0
    cut: float = 0.0
    bad_start: float = 0.0
    no_spawn: float = 0.0
    client_dies: float = 0.0
    client_drops: float = 0.0
    unready: float = 0.0
    error: float = 0.0
    lag: float = 0.0
    stubborn: float = 0.0
    resize: float = 0.0
    drain: float = 0.0
    restart: float = 0.0
    supervisor_dies: float = 0.0
    stale: float = 0.0


@dataclass
class Facts:
    pid: int
    exit_code: int | None = None
    signal: str = ""
    known: bool = True


class Link:
    """A connection: what is sent arrives later, in order, unless it is cut before."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.up = True
        self._last = 0.0

    def send(self, deliver: Callable[[], None]) -> None:
        at = max(self._last, self.world.now + self.world.rng.expovariate(200.0))
        self._last = at
        self.world.at(at, lambda: deliver() if self.up else None)


@dataclass
class FakeWorker:
    world: World
    worker_id: str
    pid: int
    alive: bool = True
    hung: bool = False
    ready: bool = True
    stopping: bool = False
    tick: int = 0
    lease: WorkerLease = field(default_factory=WorkerLease)
    link: Link | None = None
    backlog: list[Callable[[], None]] = field(default_factory=list)
    session: str = ""
    clean: bool = True
    jobs: int = 0
    rss: int = 1000
    foreign: bool = False
    called_back: bool = False

    def receive(self, link: Link, do: Callable[[], None]) -> None:
        """A message from the supervisor; one that hangs gets to it later."""
        if not self.alive or self.link is not link:
            return
        if self.hung:
            self.backlog.append(do)
        else:
            do()

    def tell(self, event: ev.Event) -> None:
        if self.link is not None:
            self.link.send(lambda: self.world.feed(event))

    def info(self) -> WorkerInfo:
        return WorkerInfo(
            worker_id=self.worker_id,
            kind=KIND,
            schema_hash=HASH,
            leased_tick=self.tick,
            client_id=self.lease.client_id,
            taken=self.lease.taken,
            clean=self.clean,
            jobs_done=self.jobs,
            rss=self.rss,
        )

    def say(self) -> None:
        self.tell(ev.InfoReceived(self.worker_id, self.info()))

    def on_link(self, link: Link) -> None:
        self.link = link
        self.tell(ev.Connected(self.worker_id))
        self.tell(ev.ReadyChanged(self.worker_id, self.ready))
        self.say()

    def serve(self, do: ev.Serve, secret: bytes) -> None:
        client = do.waiter.worker_rpc_id
        why = self.lease.refusal_to_serve(client, secret, do.expected_tick, self.tick)
        if self.stopping or not self.ready:
            why = why or "not now"
        if not why:
            self.tick += 1
            self.lease.serve(
                client,
                secret,
                expected_tick=do.expected_tick,
                terms=self.world.options.terms,
                now=self.world.now,
            )
            self.world.note_yes(self.worker_id, self.tick, client)
            if self.world.rng.random() < 0.5:
                self.say()
        self.tell(ev.ServeAnswered(self.worker_id, do.epoch, not why, why))
        if not why:
            self.say()
            self.arm()

    def arm(self) -> None:
        at = self.lease.next_deadline()
        if at is not None:
            self.world.at(at, self.lease_due)

    def lease_due(self) -> None:
        if not self.alive:
            return
        if self.hung:
            self.backlog.append(self.lease_due)
        elif self.lease.due(self.world.now) is not None:
            self.finish()

    def finish(self) -> None:
        """Releasing: takes a moment, then `Leased` ends."""
        epoch = self.lease.epoch

        def over() -> None:
            if self.alive and self.lease.epoch == epoch and self.lease.stage is Stage.RELEASING:
                self.clean = self.lease.clean
                self.session = ""
                self.lease.ended()
                self.tick += 1
                self.say()

        self.world.later(0.01, over)

    def withdraw(self, epoch: int) -> None:
        why = self.lease.refusal_to_end(epoch, withdraw=True)
        if not why:
            self.lease.begin_end(End.WITHDRAWN)
            self.finish()
        self.tell(ev.WithdrawAnswered(self.worker_id, epoch, not why))

    def retire(self, expected: int) -> None:
        why = self.lease.refusal_to_retire(expected, self.tick)
        self.tell(ev.RetireAnswered(self.worker_id, not why, why))
        if not why:
            self.stopping = True
            self.ready = False
            if self.world.rng.random() < self.world.faults.stubborn:
                return  # agreed, but does not end
            self.world.later(0.02, lambda: self.die(exit_code=0))

    def die(self, *, exit_code: int | None = None, signal: str = "") -> None:
        if not self.alive:
            return
        self.alive = False
        world = self.world
        if self.link is not None:
            world.cut(self)
        facts = Facts(self.pid, exit_code, signal)
        world.later(0.002, lambda: world.feed(ev.Exited(self.worker_id, facts, ("bye",))))


class FakeClient:
    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"n{number % 3}"
        self.generation = 0
        self.number = number
        self.born()

    def born(self) -> None:
        self.generation += 1
        instance = f"{self.name}.{self.number}-{self.generation}"
        self.client_id = f"rc-nc-super-{instance}"
        self.rpc_id = f"rc-nc-worker-{instance}"
        self.leases = ClientLeases()
        self.link = Link(self.world)
        self.deadlines: dict[str, float] = {}
        self.requests = 0

    def send(self, event: ev.Event) -> None:
        self.link.send(lambda: self.world.feed(event))

    def find_supervisor(self) -> None:
        """A new supervisor: what is pending is asked for again."""
        self.link.up = False
        self.link = Link(self.world)
        for request, left in self.leases.pending(self.world.now):
            self.request(request, left)
        for request, deadline in [*self.deadlines.items()]:
            if deadline <= self.world.now:
                self.cancel(request)  # by its own clock

    def step(self) -> None:
        rng = self.world.rng
        if rng.random() < 0.5 and len(self.deadlines) < 3:
            self.ask()
        elif self.deadlines and rng.random() < 0.2:
            self.cancel(rng.choice(sorted(self.deadlines)))

    def ask(self) -> None:
        self.requests += 1
        request = f"r{self.requests}"
        wait = self.world.rng.choice([0.05, 1.0, 10.0])
        self.deadlines[request] = self.world.now + wait
        self.leases.ask(request, self.world.now + wait)
        self.request(request, wait)

    def request(self, request: str, wait: float) -> None:
        self.send(
            ev.Requested(
                client_id=self.client_id,
                name=self.name,
                request_id=request,
                time_left=wait,
                kind=KIND,
                schema_hash=HASH,
                worker_rpc_id=self.rpc_id,
            )
        )

    def cancel(self, request: str) -> None:
        self.deadlines.pop(request, None)
        if self.leases.cancel(request):
            self.send(ev.Cancelled(self.client_id, request))

    def denied(self, do: ev.SendDenied) -> None:
        if self.leases.denied(do.request_id):
            deadline = self.deadlines.pop(do.request_id)
            if do.timed_out:
                assert self.world.now > deadline - 0.2, "Denied too early (L2)."

    def granted(self, do: ev.SendGrant, secret: bytes) -> None:
        if not self.leases.granted(do.request_id, do.worker_id, do.epoch):
            self.give_back(do, again=False)
            return
        generation = self.generation

        def connect() -> None:
            if self.generation == generation:
                self.connect(do, secret)

        self.world.later(0.02, connect)

    def give_back(self, do: ev.SendGrant, *, again: bool) -> None:
        self.send(
            ev.Returned(
                client_id=self.client_id,
                request_id=do.request_id,
                worker_id=do.worker_id,
                epoch=do.epoch,
                again=again,
            )
        )

    def connect(self, do: ev.SendGrant, secret: bytes) -> None:
        world = self.world
        worker = world.workers[do.worker_id]
        lucky = world.rng.random() > world.faults.client_drops
        opened = (
            worker.alive
            and not worker.hung
            and worker.lease.secret_for(self.rpc_id) == secret
            and worker.lease.opened(self.rpc_id)
        )
        if opened:
            worker.session = self.rpc_id
            worker.arm()
            if world.rng.random() < 0.5:
                worker.say()
        if opened and lucky and self.leases.connected(do.worker_id, do.epoch):
            self.deadlines.pop(do.request_id, None)
            world.later(world.rng.expovariate(1.0), lambda: self.finish(worker, do.epoch))
            return
        if opened:
            self.drop(worker, do.epoch)
        left = self.leases.failed(do.worker_id, do.epoch, world.now)
        self.give_back(do, again=left is not None)
        if left is not None:
            self.request(do.request_id, left)
        else:
            self.deadlines.pop(do.request_id, None)

    def drop(self, worker: FakeWorker, epoch: int) -> None:
        if worker.alive and worker.lease.epoch == epoch and worker.session:
            worker.session = ""
            worker.lease.connection_lost(self.world.now)
            worker.arm()

    def finish(self, worker: FakeWorker, epoch: int) -> None:
        """Done with a worker: released, or just dropped."""
        if not self.leases.ended(worker.worker_id, epoch) or not worker.alive:
            return
        worker.jobs += self.world.rng.randrange(5)
        worker.rss += self.world.rng.randrange(500)
        if worker.hung or self.world.rng.random() < self.world.faults.client_drops:
            self.drop(worker, epoch)
        elif not worker.lease.refusal_to_end(epoch, withdraw=False):
            worker.lease.begin_end(End.RELEASED)
            worker.finish()

    def die(self) -> None:
        old, generation = self.client_id, self.generation
        rpc_id = self.rpc_id
        self.link.up = False
        self.born()
        assert generation < self.generation
        for worker in self.world.workers.values():
            if worker.session == rpc_id:
                self.drop(worker, worker.lease.epoch)
        self.world.later(0.01, lambda: self.world.feed(ev.ClientGone(old)))


class World:
    def __init__(
        self, seed: int, options: SupervisorOptions, faults: Faults, clients: int = 4
    ) -> None:
        self.rng = random.Random(seed)
        self.options = options
        self.faults = faults
        self.now = 0.0
        self.workers: dict[str, FakeWorker] = {}
        self.secrets: dict[tuple[str, int], bytes] = {}
        self.seen: dict[str, int] = {}
        self.generation = 0
        self.core = self._new_core()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._timer = 0
        self._yes: dict[tuple[str, int], str] = {}
        self._granted: set[tuple[str, int]] = set()
        self._unheard: dict[str, float] = {}
        self._reported: set[tuple[int, str, int]] = set()
        self._starts: list[float] = []
        self._failed_at = -1e9
        self._settled_at = -1e9
        self._before: dict[str, tuple[Condition, int]] = {}
        self.stopped = False
        self.clients = [FakeClient(self, n) for n in range(clients)]
        self.feed(ev.Tick())

    def _new_core(self) -> PoolCore:
        self.generation += 1
        generation = self.generation
        return PoolCore(
            self.options,
            kind=KIND,
            schema_hash=HASH,
            name_worker=lambda n: f"w{generation}.{n}",
            draw=self.rng.random,
        )

    def supervisor_dies(self) -> None:
        """Another one takes over what it finds."""
        found: list[str] = []
        for worker in self.workers.values():
            if not worker.alive or worker.foreign:
                continue
            called_back = worker.called_back
            if worker.link is not None:
                worker.link.up = False
                worker.link = None
            worker.backlog.clear()
            if not called_back or worker.stopping:
                worker.alive = False  # its bootstrap is gone
                continue
            worker.foreign = self.rng.random() < self.faults.stale
            found.append(worker.worker_id)
        self.core = self._new_core()
        self._starts.clear()
        self._failed_at = self._settled_at = -1e9
        self._unheard = dict.fromkeys(found, self.now)
        self.feed(ev.Found(tuple((worker_id, f"unix:{worker_id}") for worker_id in found)))
        for client in self.clients:
            client.find_supervisor()

    # -- time ------------------------------------------------------------------------------

    def at(self, when: float, do: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (when, self._serial, do))

    def later(self, mean: float, do: Callable[[], None]) -> None:
        self.at(self.now + self.rng.expovariate(1 / mean), do)

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            when, _, do = heapq.heappop(self._queue)
            self.now = max(self.now, when)
            do()
        self.now = until

    def _arm(self) -> None:
        self._timer += 1
        timer = self._timer
        at = self.core.next_deadline()
        if at is None:
            return
        late = self.rng.random() * 3 if self.rng.random() < self.faults.lag else 0.0

        def ring() -> None:
            if timer == self._timer:
                self.feed(ev.Tick())

        self.at(max(at, self.now) + late, ring)

    # -- the driver ------------------------------------------------------------------------

    def feed(self, event: ev.Event) -> None:
        self.count(f"event {type(event).__name__}")
        if isinstance(event, ev.InfoReceived | ev.Exited | ev.Stale):
            self._unheard.pop(event.worker_id, None)
        served_before = {} if isinstance(event, ev.Stale) else self._serving()
        self._note_settled()
        draining = [m for m in self.core.roster if m.condition is Condition.DRAINING]
        self._draining = {member.worker_id for member in draining}
        actions = self.core.handle(event, self.now)
        self.core.check()
        self._check_left(served_before)
        for action in actions:
            self._check_action(action)
        for action in actions:
            self.count(f"action {type(action).__name__}")
            getattr(self, f"do_{type(action).__name__}")(action)
        self._arm()

    def count(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    def do_Spawn(self, do: ev.Spawn) -> None:
        if self.rng.random() < self.faults.no_spawn:
            self.later(0.01, lambda: self.feed(ev.SpawnFailed(do.worker_id, "EAGAIN")))
            return
        worker = FakeWorker(self, do.worker_id, pid=do.number)
        self.workers[do.worker_id] = worker
        worst = self.rng.random() if self.rng.random() < self.faults.bad_start else 1.0

        def started() -> None:
            self.feed(ev.Started(do.worker_id, worker.pid))
            if worst < 0.5:
                self.later(0.05, lambda: worker.die(exit_code=1))
            elif worst < 0.7:
                worker.hung = True  # never calls back
            else:
                self.later(0.1, called)

        def called() -> None:
            if worker.alive and not worker.hung:
                worker.called_back = True
                self.feed(ev.CalledBack(do.worker_id, f"unix:{do.worker_id}"))
                if worst < 1.0:
                    self.later(1.0, lambda: worker.die(exit_code=3))

        self.later(0.01, started)

    def do_Connect(self, do: ev.Connect) -> None:
        worker = self.workers[do.worker_id]

        def arrive() -> None:
            if not worker.alive:
                self.feed(ev.ConnectFailed(do.worker_id, "refused"))
            elif worker.foreign:
                self.feed(ev.Stale(do.worker_id, "stale"))
            elif not worker.hung:
                if worker.link is not None:
                    self.cut(worker)
                worker.on_link(Link(self))

        self.later(0.01, arrive)

    def cut(self, worker: FakeWorker) -> None:
        """The supervisor's connection to a worker breaks."""
        link, worker.link = worker.link, None
        if link is None:
            return
        link.up = False
        worker.backlog.clear()
        self.later(0.001, lambda: self.feed(ev.ConnectionLost(worker.worker_id, "reset")))

    def _to_worker(self, worker_id: str, do: Callable[[FakeWorker], None]) -> None:
        worker = self.workers[worker_id]
        link = worker.link
        if link is not None:
            link.send(lambda: worker.receive(link, lambda: do(worker)))

    def do_Probe(self, do: ev.Probe) -> None:
        worker = self.workers[do.worker_id]
        answer = ev.CheckAnswered(do.worker_id, do.check)
        if not do.fresh:
            self._to_worker(do.worker_id, lambda w: w.tell(answer))
        elif not worker.alive:
            self.feed(ev.CheckMissed(do.worker_id, do.check))
        elif not worker.hung:
            self.later(0.01, lambda: self.feed(answer))

    def do_Serve(self, do: ev.Serve) -> None:
        secret = f"{do.worker_id}/{do.epoch}/{self.rng.random()}".encode()
        self.secrets[do.worker_id, do.epoch] = secret
        if self.workers[do.worker_id].link is None:  # it broke, and the core will hear of it
            self.later(0.001, lambda: self.feed(ev.ServeAnswered(do.worker_id, do.epoch, None)))
        self._to_worker(do.worker_id, lambda w: w.serve(do, secret))

    def do_Withdraw(self, do: ev.Withdraw) -> None:
        self._to_worker(do.worker_id, lambda w: w.withdraw(do.epoch))

    def do_Retire(self, do: ev.Retire) -> None:
        if self.workers[do.worker_id].link is None:
            self.later(0.001, lambda: self.feed(ev.RetireAnswered(do.worker_id, None)))
        self._to_worker(do.worker_id, lambda w: w.retire(do.expected_tick))

    def do_Terminate(self, do: ev.Terminate) -> None:
        worker = self.workers[do.worker_id]
        if not worker.hung and self.rng.random() >= self.faults.stubborn:
            self.later(0.01, lambda: worker.die(signal="SIGTERM"))

    def do_Kill(self, do: ev.Kill) -> None:
        worker = self.workers[do.worker_id]
        self.later(0.001, lambda: worker.die(signal="SIGKILL"))

    def _client(self, client_id: str) -> FakeClient | None:
        return next((c for c in self.clients if c.client_id == client_id), None)

    def do_SendGrant(self, do: ev.SendGrant) -> None:
        client = self._client(do.client_id)
        secret = self.secrets[do.worker_id, do.epoch]
        if client is not None:
            client.link.send(lambda: client.granted(do, secret))

    def do_SendDenied(self, do: ev.SendDenied) -> None:
        client = self._client(do.client_id)
        if client is not None:
            client.link.send(lambda: client.denied(do))

    def do_SendCrash(self, do: ev.SendCrash) -> None:
        assert do.report.cause in set(Cause), "A death without a cause (S20)."
        client = self._client(do.client_id)
        if client is not None:
            client.leases.ended(do.worker_id, do.epoch)

    def do_Forget(self, do: ev.Forget) -> None:
        if do.worker_id in self.workers:
            assert not self.workers[do.worker_id].alive, "Forgotten alive (S7)."

    def do_Disown(self, do: ev.Disown) -> None:
        worker = self.workers[do.worker_id]
        assert worker.foreign or worker.hung or not worker.alive or self.faults.lag, do
        worker.foreign = True

    def do_ReportLeak(self, do: ev.ReportLeak) -> None:
        pair = (self.generation, do.worker_id, do.epoch)
        assert pair not in self._reported, "Reported twice."
        self._reported.add(pair)

    def do_Stopped(self, _: ev.Stopped) -> None:
        assert not [w for w in self.workers.values() if w.alive], "Stopped too early (L6)."
        self.stopped = True

    # -- predicates ------------------------------------------------------------------------

    def note_yes(self, worker_id: str, epoch: int, client: str) -> None:
        assert (worker_id, epoch) not in self._yes, "Two leases of one epoch (S3)."
        self._yes[worker_id, epoch] = client

    def _serving(self) -> dict[str, int]:
        return {m.worker_id: m.held.epoch for m in self.core.roster if m.held is not None}

    def _check_left(self, before: dict[str, int]) -> None:
        """S8: who is not handed over or leased any more has said so, or is dead."""
        for worker_id, epoch in before.items():
            member = self.core.roster.get(worker_id)
            if member is None or member.condition in SERVING:
                continue
            worker = self.workers[worker_id]
            serves = worker.lease.client_id and worker.lease.epoch == epoch
            assert not (worker.alive and serves), f"{worker_id} is idle by hearsay (S8)."

    def _check_action(self, action: Any) -> None:
        if isinstance(action, ev.SendGrant):
            pair = (action.worker_id, action.epoch)
            assert pair in self._yes, "A grant without the worker's yes (S8)."
            assert pair not in self._granted, "Two grants of one epoch (S3)."
            self._granted.add(pair)
        elif isinstance(action, ev.Serve):
            silent = [at for at in self._unheard.values() if at > self.now - 1.0 + 1e-6]
            assert not silent, "Served before all workers told of their leases (S8)."
            self._check_fair(action)
        elif isinstance(action, (ev.Terminate, ev.Kill)):
            self._check_signal(action.worker_id)
        elif isinstance(action, ev.Retire):
            self._check_retire(action)
        elif isinstance(action, ev.Spawn):
            self._check_start()
        elif isinstance(action, ev.Forget) and action.failed_start:
            self._failed_at = self.now

    def _check_fair(self, action: ev.Serve) -> None:
        waitlist, size = self.core.waitlist, self.core.size
        for waiter in waitlist._by_place.values():
            if waiter.place < action.waiter.place:
                held = self.core.roster.held_by(waiter.name)
                assert held >= size.max_per_client, "Overtaken (S10)."

    def _check_retire(self, action: ev.Retire) -> None:
        """Who is worn, or one too many, goes only while the minimum stays ready."""
        by_choice = ("one too many", "jobs", "resident", "s old", "being restarted")
        size, ready = self.core.size, self.core.roster.ready
        if action.worker_id in self._draining:
            return  # asked again, since there was no answer
        if any(word in action.reason for word in by_choice):
            rolling = "being restarted" in action.reason
            member = self.core.roster.get(action.worker_id)
            spent = member is not None and member.spent
            no_room = size.min == size.max and (spent or not rolling)
            assert ready >= size.min or no_room, f"{action.reason}: {ready} are ready."

    def _check_signal(self, worker_id: str) -> None:
        member = self.core.roster.get(worker_id)
        assert member is not None and member.doom is not None
        forced = member.doom.cause in (Cause.HANG, Cause.START_TIMEOUT)
        started = member.ready_at is not None and member.condition is not Condition.DYING
        stopping = self.core.view(self.now).stopping
        worker = self.workers[worker_id]
        if worker.lease.client_id and worker.alive:
            assert forced or stopping, f"{worker_id} was signalled while it served (S12)."
        if started and not forced:
            assert member.doom.expected, f"{worker_id} was signalled for nothing (S11)."
        if member.doom.cause is Cause.HANG:
            assert worker.hung or not worker.alive or self.faults.lag or self.faults.cut, (
                "A false verdict."
            )

    def _note_settled(self) -> None:
        for member in self.core.roster:
            at = member.ready_at
            started_since = member.started_at > self._failed_at
            settled = at is not None and self.now - at >= self.options.restart_settle - 1e-6
            if started_since and settled:
                self._settled_at = self.now

    def _check_start(self) -> None:
        """S13, as told from outside."""
        options = self.options
        if self._settled_at >= self._failed_at or (
            self.now - self._failed_at >= options.restart_period - 1e-6
        ):
            return
        self._starts.append(self.now)
        recent = [at for at in self._starts if at > self.now - options.restart_period + 1e-6]
        assert len(recent) <= options.restart_intensity, "Too many restarts (S13)."

    # -- faults ----------------------------------------------------------------------------

    def misbehave(self, seconds: float, step: float = 0.05) -> None:
        """Let everybody do what they do, with faults, for so long."""
        end = self.now + seconds
        while self.now < end:
            self.run(self.now + step)
            for client in self.clients:
                if self.rng.random() < 0.3:
                    client.step()
                if self._chance(self.faults.client_dies, step):
                    client.die()
            for worker in [w for w in self.workers.values() if w.alive]:
                self._hurt(worker, step)
            self._command(step)

    def _chance(self, rate: float, step: float) -> bool:
        return self.rng.random() < rate * step

    def _command(self, step: float) -> None:
        """What an operator does."""
        rng = self.rng
        if self._chance(self.faults.resize, step):
            most = rng.randrange(1, 7)
            size = PoolSize(
                rng.randrange(most + 1), most, rng.randrange(3), rng.randrange(most)
            )
            self.feed(ev.Resized(size))
        if self._chance(self.faults.drain, step):
            self.feed(ev.DrainRequested(rng.random() < 0.5))
        if self._chance(self.faults.supervisor_dies, step):
            self.supervisor_dies()
        if self._chance(self.faults.restart, step):
            self.feed(ev.RestartRequested())

    def _hurt(self, worker: FakeWorker, step: float) -> None:
        faults = self.faults
        if self._chance(faults.kill, step):
            worker.die(signal="SIGKILL")
        elif self._chance(faults.hang, step):
            worker.hung = True
        elif self._chance(faults.cut, step) and worker.link is not None:
            self.cut(worker)
        elif self._chance(faults.unready, step) and not worker.hung:
            worker.ready = not worker.ready
            worker.tell(ev.ReadyChanged(worker.worker_id, worker.ready))
        elif self._chance(faults.error, step):
            self.feed(ev.ErrorSeen(worker.worker_id, "odd"))

    def heal(self) -> None:
        """No more faults; whatever was broken stays for the pool to mend."""
        self.faults = Faults()
        self.feed(ev.DrainRequested(on=False))
        for worker in self.workers.values():
            if worker.alive and not worker.ready and not worker.hung and not worker.stopping:
                worker.ready = True
                worker.tell(ev.ReadyChanged(worker.worker_id, True))

    def check_whole(self) -> None:
        """L1, L2, L3 at rest: nobody has asked for anything for a long time."""
        view = self.core.view(self.now)
        size = self.core.size
        assert view.pool_ready and view.normalized and not view.broken, view
        assert view.counts.total == min(size.max, size.min + size.warm), view
        assert view.counts.idle == view.counts.total, view
        assert not view.counts.waiting and not view.why_not_growing, view
        for client in self.clients:
            assert not client.deadlines, "A request that never ended (L2)."
            assert client.leases.may_leave
        for worker in self.workers.values():
            free = not worker.alive or worker.lease.stage is Stage.FREE
            assert free or worker.foreign, "A lease lives on (L3)."


def options(**more: Any) -> SupervisorOptions:
    given: dict[str, Any] = {
        "size": PoolSize(2, 6, 2, 3),
        "worker_err_recent": 2.0,
        "linger": 5.0,
        "pool_pause": 0.3,
        "conn_timeout": 1.0,
        "start_timeout": 2.0,
        "check_timeout": 1.0,
        "worker_check_interval": 0.3,
        "healthcheck_pause": 0.1,
        "delivery_timeout": 1.0,
        "grace": 0.3,
        "maximum": 4.0,
        "term_timeout": 0.5,
        "restart_period": 2.0,
        "restart_settle": 0.3,
        "back_off_base": 0.1,
        "back_off_cap": 2.0,
        **more,
    }
    return SupervisorOptions(**given)
