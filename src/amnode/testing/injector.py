"""Injector: does to a deployment what its faults say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import ClassVar, TypeVar

from amnode.testing.deployment import Deployment, LiveWorker
from amnode.testing.faults import MOMENTS, ON_OTHERS, ON_STARTS, ON_WORKERS, Fault, Kind
from amnode.testing.host import Launch, SimProcess
from amnode.testing.loop import Place
from amnode.testing.network import Cable, SimConnection

T = TypeVar("T")


class Injector:
    """Does what faults say.

    Some states of a worker last for milliseconds. A fault that is to hit one then, and finds
    none, waits for the next; so do faults of others that are to come at such a moment.

    Args:
        deployment: to which.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._rng = Random(f"{deployment.seed}/injector")
        self._place = Place("stranger")
        self._armed: list[Fault] = []
        deployment.on_moment = self._moment

    def inject(self, fault: Fault) -> None:
        """Does one, or has it wait for its moment."""
        if self._waits(fault):
            self._armed.append(fault)
        else:
            self._do(fault)

    def _waits(self, fault: Fault) -> bool:
        if fault.kind in ON_STARTS or fault.state not in MOMENTS:
            return False
        if fault.kind in ON_WORKERS:
            return all(live.state() != fault.state for live in self._deployment.living())
        return fault.kind in ON_OTHERS

    def _moment(self, state: str) -> None:
        for fault in self._armed:
            if fault.state == state:
                self._armed.remove(fault)
                soon = 4.0 * self._deployment.scenario.latency * self._rng.random()
                self._deployment.loop.post(self._deployment.loop.outer, soon, self._do, fault)
                return

    def _do(self, fault: Fault) -> None:
        """Does it; one that finds nobody to hit is counted as missed."""
        deployment = self._deployment
        if deployment.resting:
            return
        if fault.kind in ON_WORKERS:
            hit = self._hit_worker(fault)
        elif fault.kind in ON_STARTS:
            hit = self._spoil_start(fault)
        else:
            hit = self._OTHERS[fault.kind](self, fault)
        deployment.note("fault", f"{fault.kind} {'hits' if hit else 'misses'} {hit or ''}")
        deployment.count("faults" if hit else "faults that missed")
        if hit:
            deployment.count(f"fault: {fault.kind}")

    def stop_one_worker(self) -> None:
        """The end of a pool comes while one of its workers does not answer, in some seeds."""
        living = self._deployment.living()
        if living and self._rng.random() < 0.5:
            live = living[int(self._rng.random() * len(living))]
            self._deployment.loop.stop_place(live.process.place)

    # -- workers ---------------------------------------------------------------------------

    def _hit_worker(self, fault: Fault) -> str:
        living = [live for live in self._deployment.living() if live.worker is not None]
        wanted = [live for live in living if live.state() == fault.state]
        live = _pick(wanted or living, fault)
        if live is None:
            return ""
        state = live.state()
        if not self._hurt(live, fault):
            return ""
        self._deployment.count(f"fault: {fault.kind} x {state}")
        return f"{live.worker_id}, which is {state}"

    def _hurt(self, live: LiveWorker, fault: Fault) -> bool:
        host, process = self._deployment.host, live.process
        match fault.kind:
            case Kind.KILL:
                host.ended(process, signal="SIGKILL")
            case Kind.SEGFAULT:
                process.write("Segmentation fault")
                host.ended(process, signal="SIGSEGV")
            case Kind.EXIT:
                host.ended(process, exit_code=3)
            case Kind.TERM:
                live.told_to_end = True
                host.signal(process, "SIGTERM")
            case Kind.STOP:
                self._deployment.loop.stop_place(process.place)
            case Kind.PAUSE:
                self._pause(process, fault.seconds)
            case _:
                return self._harm_cable(fault, process)
        return True

    def _pause(self, process: SimProcess, seconds: float) -> None:
        loop = self._deployment.loop
        if not process.place.stopped:
            loop.stop_place(process.place)
            loop.post(loop.outer, seconds, loop.continue_place, process.place)

    def _harm_cable(self, fault: Fault, process: SimProcess) -> bool:
        network = self._deployment.network
        cables = [c for c in network.cables.values() if c.is_at(process.place)]
        cable: Cable | None = _pick(cables, fault)
        if cable is None:
            return False
        match fault.kind:
            case Kind.RESET:
                network.reset(cable)
            case Kind.BLACK_HOLE:
                network.hush(cable, fault.seconds)
            case Kind.HOLD:
                network.hold(cable, fault.seconds)
            case _:
                network.slow(cable, 4 * fault.seconds, 0.1 * fault.seconds)
        return True

    # -- starts ----------------------------------------------------------------------------

    def _spoil_start(self, fault: Fault) -> str:
        late = self._deployment.scenario.pool.conn_timeout
        how = {
            Kind.CRASH_AT_IMPORT: Launch(fails=1),
            Kind.NEVER_CALLS: Launch(silent=True),
            Kind.CALLS_LATE: Launch(delay=late * (0.95 + 0.1 * self._rng.random())),
            Kind.WRONG_SECRET: Launch(wrong_secret=True),
            Kind.NO_FORK: Launch(refused=True),
        }[fault.kind]
        again = 1 + fault.pick % 6  # a cause of failed starts lasts
        self._deployment.launches += [how] * again
        return f"the next {again} starts"

    # -- the others ------------------------------------------------------------------------

    def _part(self, fault: Fault) -> str:
        places = [process.name for process in self._deployment.host.processes.values()]
        one = _pick(places, fault)
        other = places[(fault.pick // 7) % len(places)] if places else None
        if one is None or other is None or one == other:
            return ""
        self._deployment.network.part(one, other, fault.seconds)
        return f"{one} and {other}"

    def _say_garbage(self, fault: Fault) -> str:
        return self._intrude(fault, self._rng.randbytes(1 + fault.pick % 600))

    def _replay(self, fault: Fault) -> str:
        cable = _pick([*self._deployment.network.cables.values()], fault)
        return "" if cable is None else self._intrude(fault, bytes(cable.spoken), cable.address)

    def _intrude(self, fault: Fault, data: bytes, address: str = "") -> str:
        network = self._deployment.network
        address = address or _pick(network.addresses(), fault) or ""
        listener = network.listener_at(address)
        if listener is None or not data:
            return ""
        loop = self._deployment.loop
        with loop.within(self._place):
            stranger = _Stranger(data)
            end = SimConnection("sim", "stranger", 1.0)
            network.new_cable(listener, self._place).plug(end, caller=True)
            end.begin(stranger)
            end.wake()
            loop.call_later(fault.seconds, end.abort)
        return address

    def _kill_client(self, fault: Fault) -> str:
        deployment = self._deployment
        client = _pick(deployment.clients, fault)
        if client is None or client.process is None or client.process.record is not None:
            return ""
        deployment.host.ended(client.process, signal="SIGKILL")
        deployment.loop.post(deployment.loop.outer, fault.seconds, client.start_again)
        return client.process.name

    def _pause_client(self, fault: Fault) -> str:
        client = _pick(self._deployment.clients, fault)
        if client is None or client.process is None or client.process.record is not None:
            return ""
        self._pause(client.process, fault.seconds)
        return client.process.name

    def _kill_supervisor(self, fault: Fault) -> str:
        deployment = self._deployment
        pool = _pick(deployment.pools, fault)
        if pool is None or pool.process is None or pool.process.record is not None:
            return ""
        name = pool.process.name
        deployment.host.ended(pool.process, signal="SIGKILL")
        deployment.loop.post(deployment.loop.outer, fault.seconds, pool.start_again)
        return name

    def _pause_supervisor(self, fault: Fault) -> str:
        pool = _pick(self._deployment.pools, fault)
        if pool is None or pool.process is None or pool.process.record is not None:
            return ""
        self._pause(pool.process, fault.seconds)
        return pool.process.name

    _OTHERS: ClassVar[dict[Kind, Callable[[Injector, Fault], str]]] = {
        Kind.PARTITION: _part,
        Kind.GARBAGE: _say_garbage,
        Kind.REPLAY: _replay,
        Kind.CLIENT_KILL: _kill_client,
        Kind.CLIENT_PAUSE: _pause_client,
        Kind.SUPERVISOR_KILL: _kill_supervisor,
        Kind.SUPERVISOR_PAUSE: _pause_supervisor,
    }


class _Stranger:
    """Somebody who connects, says something, and listens to nothing."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def connected(self, connection: object) -> None:
        """See `Handler`."""

    def received(self, data: bytes) -> None:
        """See `Handler`."""

    def sink(self) -> memoryview | None:
        """See `Handler`."""
        return None

    def sunk(self, count: int) -> None:
        """See `Handler`."""

    def outgoing(self) -> bytes:
        """See `Handler`."""
        data, self._data = self._data, b""
        return data

    def lost(self, error: Exception | None) -> None:
        """See `Handler`."""


def _pick(among: Sequence[T], fault: Fault) -> T | None:
    return among[fault.pick % len(among)] if among else None
