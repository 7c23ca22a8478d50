"""Deployment: supervisors, workers and clients of one simulation, from start to end.

    scenario -> start -> things go wrong -> heal -> rest -> stop -> nothing is left

Every driver in it is the real one. The deployment gives them their processes, watches them,
and compares what they do with the predicates of `safety` after each event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Final

from amnode.errors import PromiseBroken
from amnode.machine.transition import Transition
from amnode.node.args import WorkerBoot
from amnode.node.leased import LeasedWorker
from amnode.node.loop_host import LoopHost
from amnode.node.outside import Outside
from amnode.node.policy import events as ev
from amnode.node.states import SupervisorStates, WorkerStates
from amnode.node.supervisor import Supervisor
from amnode.testing.actor import SimActor
from amnode.testing.faults import Ask, Order, Scenario
from amnode.testing.host import Launch, SimHost, SimLauncher, SimProcess
from amnode.testing.loop import Place, SimLoop
from amnode.testing.network import Cable, SimNetwork, Weather
from amnode.testing.safety import CallSafety, PoolSafety, WorkerFacts, WorkerSafety, require
from amnode.testing.sim_client import SimClient
from amnode.testing.sim_worker import SimWorker
from amnode.testing.trace import Trace

#: What clients prove to have; its bytes must never be seen on any connection (promise S21).
TOKEN: Final = b"the token of every simulated pool"

#: Events of a supervisor in one simulated second after which it goes round in circles.
_MOST_EVENTS: Final = 400

#: What a worker is after an action, where that lasts only for a moment.
_MOMENTS: Final[dict[type[ev.Action], str]] = {
    ev.Spawn: "starting",
    ev.Serve: "handed over",
    ev.SendGrant: "handed over",
    ev.Retire: "draining",
}

S = SupervisorStates


class LiveWorker:
    """One worker of a deployment: its process, its driver, and its past."""

    def __init__(self, deployment: Deployment, process: SimProcess, pool: Pool) -> None:
        self.process = process
        self.pool = pool
        self.worker_id = f"nw-{process.name}"
        self.worker: SimWorker | None = None
        self.safety = WorkerSafety()
        #: The transition after which its machine had these times (promise S15).
        self.history: dict[tuple[int, ...], int] = {}
        self.told_to_end = False
        self.checked_turn = -1
        self._deployment = deployment

    async def run(self, boot: WorkerBoot) -> int:
        """The body of its process."""
        host, process = self._deployment.host, self.process
        worker = self.worker = SimWorker(
            opts=self._deployment.scenario.worker,
            outside=host.outside(process),
            watch=self._deployment,
            draw=Random(f"{self._deployment.seed}/{process.name}/draw").random,
        )
        worker.machine.trace(self)
        process.on_term = self._terminated
        return await worker.run(boot, LoopHost(process))

    def _terminated(self) -> None:
        if self.worker is not None:
            self.worker.stop("SIGTERM")

    def transition_end(self, transition: Transition) -> None:
        """See `amnode.machine.tracing`."""
        self.history[transition.machine.time()] = len(self.history)

    def state(self) -> str:
        """What it is to its pool, or "orphan"."""
        supervisor = self.pool.supervisor
        if self.pool.process is not self.process.parent or supervisor is None:
            return "orphan"
        member = supervisor.core.roster.get(self.worker_id)
        return member.condition.value if member is not None else "orphan"

    def is_proven(self) -> bool:
        """Whether its supervisor may signal it: it started it, or has heard of it since."""
        supervisor = self.pool.supervisor
        member = None if supervisor is None else supervisor.core.roster.get(self.worker_id)
        return member is not None and member.proven

    def facts(self) -> WorkerFacts:
        """What it is in truth."""
        worker = self.worker
        assert worker is not None, "It has not begun."
        lease, public = worker.lease, worker.public_rpc
        sessions = [] if public is None else list(public.servers.values())
        return WorkerFacts(
            worker_id=self.worker_id,
            alive=self.process.record is None,
            tick=worker.machine.tick(WorkerStates.Leased),
            leased=worker.machine.is1(WorkerStates.Leased),
            stage=lease.stage,
            epoch=lease.epoch,
            client_id=lease.client_id,
            end=lease.end,
            sessions=tuple((s.machine.id, s.client_id) for s in sessions if s.is_connected),
            running=worker.machine.is1(WorkerStates.Start),
            told_to_end=self.told_to_end,
        )


class Pool(SimActor):
    """One supervisor of a deployment, and those that take its place."""

    def __init__(self, deployment: Deployment, name: str) -> None:
        super().__init__(deployment, name)
        self.name = name
        self.address = f"unix:/sim/{name}"
        self.local = f"unix:/sim/{name}.local"
        self.supervisor: Supervisor | None = None
        self.events = 0
        self._second = self._events_then = 0
        self._found: dict[str, None] = {}

    def _begin_anew(self) -> None:
        self.supervisor = None

    def do(self, order: Order) -> None:
        """Has its supervisor told what an operator wants, if there is one."""
        process, supervisor = self.process, self.supervisor
        if process is not None and process.record is None and supervisor is not None:
            loop = self._deployment.loop
            loop.post(process.place, 0.0, self._told, supervisor, order)

    def _told(self, supervisor: Supervisor, order: Order) -> None:
        machine, size = supervisor.machine, order.size
        if machine.not1(S.Start):
            return
        match order.ask:
            case Ask.RESIZE:
                supervisor.set_pool(size.min, size.max, size.warm, size.max_per_client)
            case Ask.DRAIN:
                machine.add1(S.Draining)
            case Ask.RESUME:
                supervisor.resume()
            case Ask.RESTART:
                machine.add1(S.RollingRestart)
        self._deployment.count(f"operator: {order.ask}")

    async def _run(self, process: SimProcess) -> int:
        deployment, stop = self._deployment, self.told_to_stop()
        keeps = deployment.scenario.keeps
        supervisor = Supervisor(
            SimWorker,
            name=self.name if keeps else process.name,
            state_dir=f"/sim/kept/{self.name}" if keeps else "",
            token=TOKEN,
            public_addr=self.address,
            local_addr=self.local,
            peers=deployment.peers_of(self),
            opts=deployment.scenario.pool,
            launcher=SimLauncher(
                deployment.host, process, partial(self._work), deployment.next_launch
            ),
            outside=deployment.host.outside(process),
            on_decided=self._decided,
        )
        self._safety = PoolSafety(process.name, supervisor.core, deployment.facts_of)
        await supervisor.start()
        self.supervisor = supervisor
        await stop.wait()
        await supervisor.dispose()
        deployment.check_nothing_left(process)
        return 0

    async def _work(self, process: SimProcess, boot: WorkerBoot) -> int:
        live = LiveWorker(self._deployment, process, self)
        self._deployment.add_worker(live)
        return await live.run(boot)

    def _decided(self, event: ev.Event, actions: Sequence[ev.Action]) -> None:
        deployment = self._deployment
        self.events += 1
        if isinstance(event, ev.Found):
            self._found = dict.fromkeys(worker_id for worker_id, _ in event.workers)
            deployment.count("workers found by the next supervisor", len(event.workers))
        elif isinstance(event, ev.InfoReceived) and self._found.pop(event.worker_id, 0) is None:
            deployment.count("workers adopted")
        for action in actions:
            if isinstance(action, ev.SendGrant):
                deployment.count("leases granted")
            elif isinstance(action, ev.Terminate | ev.Kill):
                deployment.told_to_end(action.worker_id)
            state = _MOMENTS.get(type(action))
            if state is not None and deployment.on_moment is not None:
                deployment.on_moment(state)
        with deployment.judging():
            self._count_events()
            self._safety.decided(event, actions, deployment.loop.time())
        if deployment.keeps_lines:
            said = ", ".join(map(repr, actions))
            deployment.note(self.name, f"{event!r} -> [{said}]")

    def _count_events(self) -> None:
        """L7, in the midst of faults: nobody goes round in circles."""
        second = int(self._deployment.loop.time())
        if second != self._second:
            self._second, self._events_then = second, self.events
        few = self.events - self._events_then < _MOST_EVENTS
        require(few, "L7", f"{self.name} has {_MOST_EVENTS} events in second {second}.")

    def _look(self) -> None:
        """S19: what the supervisor shows is a function of the core's data."""
        supervisor = self.supervisor
        if supervisor is None or supervisor.machine.not1(S.Start):
            return
        view, machine = supervisor.view(), supervisor.machine
        shown = {
            S.PoolReady: view.pool_ready,
            S.WorkersAvailable: view.workers_available,
            S.NormalizingPool: view.normalizing,
            S.PoolNormalized: view.normalized,
            S.PoolStarting: view.pool_starting,
        }
        for state, on in shown.items():
            require(machine.is1(state) == on, "S19", f"{state} of {self.name} is not {on}.")


class Deployment:
    """A whole deployment in simulated time.

    Args:
        seed: of everything that is left to chance.
        scenario: what there is and what goes wrong.
        keep_lines: whether the trace keeps its lines.

    Attributes:
        counters: what happened, and how often.
        broken: the first predicate that did not hold, or None.
    """

    def __init__(self, seed: int, scenario: Scenario, *, keep_lines: bool = False) -> None:
        self.seed = seed
        self.scenario = scenario
        self.keeps_lines = keep_lines
        self.counters: dict[str, int] = {}
        self.broken: PromiseBroken | None = None
        self.trace = Trace(keep=keep_lines)
        self.loop = SimLoop(f"{seed}/loop")
        self.rng = Random(f"{seed}/deployment")
        weather = Weather(latency=scenario.latency, split=scenario.split)
        self.network = SimNetwork(
            self.loop, Random(f"{seed}/network"), weather, self._bytes_arrived
        )
        self.host = SimHost(self.loop, self.network, str(seed), self._process_ended)
        self.calls = CallSafety()
        self.pools = [Pool(self, f"s{n}") for n in range(scenario.supervisors)]
        self.clients = [
            SimClient(self, n, f"c{n % scenario.names}") for n in range(scenario.clients)
        ]
        self.workers: dict[str, LiveWorker] = {}
        self.launches: list[Launch] = []
        self.silent: list[str] = []
        #: Told of what workers become for a moment.
        self.on_moment: Callable[[str], None] | None = None
        #: Whether nothing goes wrong any more.
        self.resting = False
        self._asked: dict[int, int] = {}
        self._watched: dict[Place, Callable[[], None]] = {}
        self.loop.after_turn = self._after_turn
        self.loop.on_exit = self._process_exits

    # -- what there is ---------------------------------------------------------------------

    @property
    def addresses(self) -> list[str]:
        """Where the supervisors are."""
        return [pool.address for pool in self.pools]

    def living(self) -> list[LiveWorker]:
        """The workers whose processes live, in the order in which they began."""
        return [live for live in self.workers.values() if live.process.record is None]

    def outside(self, process: SimProcess) -> Outside:
        """What a driver in that process touches."""
        return self.host.outside(process)

    def add_worker(self, live: LiveWorker) -> None:
        """A worker begins."""
        self.workers[live.worker_id] = live
        self.watch(live.process.place, partial(self._see, live))

    def facts_of(self, worker_id: str) -> WorkerFacts | None:
        """What a worker is in truth; None if it never began."""
        live = self.workers.get(worker_id)
        return live.facts() if live is not None and live.worker is not None else None

    @property
    def token(self) -> bytes:
        """What clients prove to have."""
        return TOKEN

    def start(self) -> None:
        """Starts everybody who does not live."""
        for pool in self.pools:
            pool.start()
        for client in self.clients:
            client.start()

    def peers_of(self, pool: Pool) -> list[str]:
        """The local addresses of those that a supervisor asks."""
        return [p.local for p in self.pools if p is not pool and self.scenario.peers]

    def order(self, order: Order) -> None:
        """An operator asks one of the pools for something."""
        pool = self.pools[order.pick % len(self.pools)]
        self.note("operator", f"{order.ask} of {pool.name}")
        pool.do(order)

    def heal(self) -> None:
        """Nothing goes wrong from now on; what is broken is for the pools to mend.

        Workers that are stopped stay so, unless nobody is left who could end them.
        """
        self.resting = True
        self.on_moment = None
        self.launches.clear()
        self.network.heal()
        size = self.scenario.pool.size
        for pool in self.pools:  # operators undo what they did
            for ask in (Ask.RESUME, Ask.RESIZE):
                pool.do(Order(self.loop.time(), ask, 0, size))
        self.start()  # those that were to be started again later
        for process in [*self.host.processes.values()]:
            live = self.workers.get(f"nw-{process.name}")
            if live is None or live.state() == "orphan" or not live.is_proven():
                self.loop.continue_place(process.place)
            if process.name in self.silent and process.parent is None:
                self.host.ended(process, signal="SIGKILL")  # hung in an import, for anybody

    def close(self) -> None:
        """Ends all processes at once, and all that they left."""
        for process in [*self.host.processes.values()]:
            self.host.ended(process, signal="SIGKILL")
        self.loop.end_place(self.loop.outer)
        self.loop.bury()
        self.loop.close()

    def activity(self) -> int:
        """How many events the supervisors have had."""
        return sum(pool.events for pool in self.pools)

    def stop_bound(self) -> float:
        """Seconds in which clients and supervisors stop."""
        what = self.scenario
        of_client = 2 * what.client.delivery_timeout + 2 * what.client.conn_timeout
        of_errand = what.client.request_wait + 4.0 + 12 * what.hold
        return what.pool.stop_grace + 3 * what.pool.term_timeout + of_client + of_errand + 5.0

    def orphan_bound(self) -> float:
        """Seconds in which a worker ends that has neither supervisor nor client."""
        what = self.scenario
        lease = what.pool.delivery_timeout + what.pool.grace + 3 * what.worker.release_timeout
        lease += what.pool.adopt_wait if what.keeps else 0.0
        return lease + what.worker.orphan_ttl + 2 * what.worker.conn_timeout + 1.0

    def next_launch(self, name: str) -> Launch:
        """How the next start goes."""
        self.count("starts")
        how = self.launches.pop(0) if self.launches else Launch(delay=self._import_time())
        if how.silent:
            self.silent.append(name)
        self.note("launcher", f"{name} {how}")
        return how

    def told_to_end(self, worker_id: str) -> None:
        """A worker is signalled by its supervisor."""
        live = self.workers.get(worker_id)
        if live is not None:
            live.told_to_end = True

    # -- checking --------------------------------------------------------------------------

    def check_nothing_left(self, process: SimProcess) -> None:
        """L4: called at the end of a process that has stopped in good order."""
        place = process.place
        mine = asyncio.current_task()
        tasks = [task for task in place.tasks() if task is not mine]
        left = [*map(repr, tasks), *self.loop.timers_of(place), *self.network.open_of(place)]
        with self.judging():
            require(not left, "L4", f"{process.name} left {left}.")

    def check_replica(self, worker: LeasedWorker, last: int) -> int:
        """S15: after which transition of its source a client's replica stands."""
        live = self.workers[worker.id]
        known = live.history.get(worker.machine.time(), None)
        if known is None:
            require(False, "S15", f"a replica of {worker.id} is {worker.machine}.")
        assert known is not None, "The line before says so."
        require(known >= last, "S15", f"a replica of {worker.id} went back from {last}.")
        return known

    def check_seen(self, worker: LeasedWorker, number: int) -> None:
        """S16: who has the answer of a call sees its effect."""
        seen = worker.machine.tick(WorkerStates.WorkRequested)
        there = self._asked[number]
        require(seen >= there, "S16", f"call {number} is answered before it is seen.")

    # -- watching --------------------------------------------------------------------------

    def note(self, who: str, what: str) -> None:
        """A line of the trace."""
        self.trace.note(self.loop.time(), who, what)

    def count(self, what: str, by: int = 1) -> None:
        """Something happened."""
        self.counters[what] = self.counters.get(what, 0) + by

    def judging(self) -> Judge:
        """A context in which a broken predicate is kept, and ends the simulation."""
        return Judge(self)

    def break_off(self, error: PromiseBroken) -> None:
        """Keeps the first predicate that is broken, and ends the simulation."""
        if self.broken is None:
            self.broken = error
            self.note("broken", str(error))
            self.loop.stop()

    def watch(self, place: Place, look: Callable[[], None]) -> None:
        """Has `look` called after each turn of a place."""
        self._watched[place] = look

    def job_started(self, worker: SimWorker, number: int) -> None:
        """See `JobWatch`."""
        facts = self.facts_of(worker.machine.id)
        assert facts is not None, "A job runs in no worker."
        self.count("jobs run")
        self._asked[number] = worker.machine.tick(WorkerStates.WorkRequested)
        self.note(worker.name, f"job {number} starts in epoch {facts.epoch}")
        with self.judging():
            self.calls.started(number, facts)

    def job_ended(self, worker: SimWorker) -> None:
        """See `JobWatch`."""
        if self.workers[worker.machine.id].process.record is None:
            self.calls.ended(worker.machine.id)

    def _see(self, live: LiveWorker) -> None:
        if live.worker is not None:
            live.safety.seen(live.facts())

    def _after_turn(self, place: Place) -> None:
        look = self._watched.get(place)
        if look is not None and not place.gone:
            with self.judging():
                look()

    def _bytes_arrived(self, cable: Cable, receiver: str, data: bytes) -> None:
        self.trace.arrived(self.loop.time(), f"{cable.number}{receiver}", data)
        if TOKEN in data:
            with self.judging():
                require(False, "S21", f"the token is seen on {cable!r}.")

    def _process_ended(self, process: SimProcess) -> None:
        record = process.record
        assert record is not None, "It has not ended."
        said = " / ".join(process.output)
        self.note(process.name, f"{record.describe()}{said and ', having said: '}{said}")
        self.calls.ended(f"nw-{process.name}")
        self._watched.pop(process.place, None)
        if record.exit_code and any(actor.process is process for actor in self._actors()):
            self.break_off(
                PromiseBroken(f"L4: {process.name} {record.describe()}: {said}", promise="L4")
            )

    def _actors(self) -> list[SimActor]:
        return [*self.pools, *self.clients]

    def _process_exits(self, place: Place, code: int) -> None:
        for process in [*self.host.processes.values()]:
            if process.place is place:
                self.host.ended(process, exit_code=code)

    def _import_time(self) -> float:
        return 0.02 + 0.2 * self.rng.random()


class Judge:
    """Keeps the first predicate that is broken, and has the simulation end."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, PromiseBroken):
            return False
        # The code of processes that are gone runs once more when they are buried.
        if not self._deployment.loop.current.gone:
            self._deployment.break_off(error)
        return True
