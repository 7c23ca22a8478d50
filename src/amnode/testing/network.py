"""SimNetwork: connections of a simulation, in which everything takes time or breaks.

Each process has a `SimTransport` of its own, which is a `Transport` as the drivers know it.
Rules:

1. Bytes of one direction arrive in order, each once or never; in any split, or joined.
2. What waits for a stopped process waits in front of it, as in a socket's buffer. A sender that
   gets too far ahead is paused.
3. The end of a process ends its connections; the other side hears of it, after all it was sent
   or at once, as the seed says.
4. The network does nothing by itself: what breaks is told by its methods.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from random import Random
from typing import Final

import msgspec

from amnode.errors import ConnectionLost, OptionError
from amnode.rpc.transport.port import Accept, Connection, Handler, Listener
from amnode.testing.loop import Place, SimLoop

#: Bytes under way in one direction at which its sender is paused, and goes on.
_HIGH, _LOW = 256 * 1024, 64 * 1024
#: Bytes of each connection that are remembered, to be replayed.
_REMEMBERED: Final = 4096

Buffers = bytes | bytearray | memoryview | Sequence[bytes | bytearray | memoryview]


class Weather(msgspec.Struct, frozen=True, kw_only=True):
    """How a network is when nothing is wrong with it.

    Attributes:
        latency: seconds that bytes take, on average and at least a tenth of it.
        split: the share of writes that arrive in pieces.
        abrupt: the share of ends of processes that reset their connections.
    """

    latency: float = 0.001
    split: float = 0.05
    abrupt: float = 0.3


class SimNetwork:
    """All connections.

    Args:
        loop: whose time it takes.
        rng: what is left to chance.
        weather: how it is.
        on_bytes: told of all that arrives: the cable, the receiver's name, and the bytes.

    Attributes:
        cables: the connections that are open, in the order in which they were made.
        delivered: how often something arrived.
    """

    def __init__(
        self,
        loop: SimLoop,
        rng: Random,
        weather: Weather,
        on_bytes: Callable[[Cable, str, bytes], None],
    ) -> None:
        self.loop = loop
        self.rng = rng
        self.weather = weather
        self.cables: dict[int, Cable] = {}
        self.delivered = 0
        self.on_bytes = on_bytes
        self._listeners: dict[str, _SimListener] = {}
        self._parted: dict[tuple[str, str], float] = {}
        self._number = 0

    def transport(self, place: Place) -> SimTransport:
        """The transport of one process."""
        return SimTransport(self, place)

    # -- what breaks -----------------------------------------------------------------------

    def reset(self, cable: Cable) -> None:
        """Both ends lose the connection, and what is under way."""
        cable.reset()

    def hush(self, cable: Cable, seconds: float) -> None:
        """A black hole: what is sent is lost, nobody is told; the reset comes in the end."""
        cable.hush()
        self.loop.post(self.loop.outer, seconds, cable.reset)

    def hold(self, cable: Cable, seconds: float) -> None:
        """Nothing arrives for so long, then all of it."""
        cable.held_until = max(cable.held_until, self.loop.time() + seconds)

    def slow(self, cable: Cable, seconds: float, delay: float) -> None:
        """For so long, each piece takes that much longer, and pieces are small."""
        cable.slow_until = self.loop.time() + seconds
        cable.delay = delay

    def part(self, one: str, other: str, seconds: float) -> None:
        """Nothing arrives between two processes for so long, then all of it."""
        self._parted[_pair(one, other)] = self.loop.time() + seconds

    def heal(self) -> None:
        """From now on nothing is held or slow; black holes end in their resets."""
        self._parted.clear()
        for cable in [*self.cables.values()]:
            cable.heal()
            if cable.hushed:
                cable.reset()

    def parted_until(self, one: str, other: str) -> float:
        """Until when nothing arrives between two processes."""
        return self._parted.get(_pair(one, other), 0.0)

    def end_of(self, place: Place) -> None:
        """A process has ended (rule 3)."""
        for address, listener in [*self._listeners.items()]:
            if listener.place is place:
                del self._listeners[address]
        for cable in [*self.cables.values()]:
            if cable.is_at(place):
                cable.end_of(place, abrupt=self.rng.random() < self.weather.abrupt)

    def addresses(self) -> list[str]:
        """Where somebody listens, in the order in which they began."""
        return list(self._listeners)

    def open_of(self, place: Place) -> list[str]:
        """What a process holds open: its listeners and its ends of connections."""
        listening = [a for a, listener in self._listeners.items() if listener.place is place]
        ends = [
            f"{cable} to {cable.address}"
            for cable in self.cables.values()
            if cable.is_open_at(place)
        ]
        return listening + ends

    # -- for transports --------------------------------------------------------------------

    def trip(self) -> float:
        """Seconds that something takes to arrive."""
        mean = self.weather.latency
        return mean * 0.1 + self.rng.expovariate(1.0) * mean * 0.9

    def listen(
        self, address: str, place: Place, accept: Accept, close_timeout: float
    ) -> Listener:
        """See `Transport.listen`."""
        if address in self._listeners:
            raise ConnectionLost(f"{address} is taken.")
        listener = _SimListener(self, address, place, accept, close_timeout)
        self._listeners[address] = listener
        return listener

    def listener_at(self, address: str) -> _SimListener | None:
        """Who listens there."""
        return self._listeners.get(address)

    def forget_listener(self, listener: _SimListener) -> None:
        """It is closed."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    def new_cable(self, listener: _SimListener, caller: Place) -> Cable:
        """A connection, of which no end exists yet."""
        self._number += 1
        cable = Cable(self, self._number, listener.address, caller, listener.place)
        self.cables[self._number] = cable
        self.loop.post(listener.place, self.trip(), listener.accepted, cable)
        return cable

    def forget_cable(self, cable: Cable) -> None:
        """Both its ends are gone."""
        self.cables.pop(cable.number, None)


class Cable:
    """One connection: two lanes, and what is wrong with them.

    Attributes:
        number: of all connections of the network.
        address: where it was made to.
        spoken: the first bytes that the caller sent.
        held_until: nothing arrives until then.
        slow_until: what is sent until then takes `delay` longer.
        hushed: whether it is a black hole.
    """

    def __init__(
        self, network: SimNetwork, number: int, address: str, caller: Place, callee: Place
    ) -> None:
        self.number = number
        self.address = address
        self.caller = caller
        self.callee = callee
        self.spoken = bytearray()
        self.held_until = self.slow_until = self.delay = 0.0
        self.hushed = False
        self.network = network
        self._forth = _Lane(self, caller, callee)
        self._back = _Lane(self, callee, caller)

    def __repr__(self) -> str:
        return f"<Cable {self.number} {self.caller.name}-{self.callee.name}>"

    def plug(self, end: SimConnection, *, caller: bool) -> None:
        """One end exists now."""
        out, into = (self._forth, self._back) if caller else (self._back, self._forth)
        end.plug(out, into)
        out.sender = end
        into.receiver = end
        into.look()

    def remember(self, lane: _Lane, data: bytes) -> None:
        """Keeps what the caller says first."""
        if lane is self._forth and len(self.spoken) < _REMEMBERED:
            self.spoken += data

    def blocked_until(self) -> float:
        """When something can arrive."""
        parted = self.network.parted_until(self.caller.name, self.callee.name)
        return max(self.held_until, parted)

    def is_at(self, place: Place) -> bool:
        """Whether one of its ends belongs to a process."""
        return place is self.caller or place is self.callee

    def is_open_at(self, place: Place) -> bool:
        """Whether a process has an end of it that is not gone."""
        lanes = (self._forth, self._back)
        return any(lane.source is place and lane.sender is not None for lane in lanes)

    def reset(self) -> None:
        """Cuts both lanes."""
        self._forth.cut()
        self._back.cut()

    def refused(self) -> None:
        """Nobody accepted it."""
        self._back.cut()
        self.network.forget_cable(self)

    def hush(self) -> None:
        """From now on all that is sent is lost."""
        self.hushed = True
        self._forth.lose()
        self._back.lose()

    def heal(self) -> None:
        """Nothing is held or slow any more."""
        self.held_until = self.slow_until = 0.0
        self._forth.look_again()
        self._back.look_again()

    def end_of(self, place: Place, *, abrupt: bool) -> None:
        """The process at one end is no more."""
        gone, left = (
            (self._forth, self._back) if place is self.caller else (self._back, self._forth)
        )
        gone.sender = left.receiver = None
        if abrupt:
            gone.cut()
        else:
            gone.finish()
        left.lose()
        self.ended()

    def ended(self) -> None:
        """An end is gone; so is the cable, with the second one."""
        if self._forth.sender is None and self._back.sender is None:
            self.network.forget_cable(self)


class _Lane:
    """One direction: what was sent and has not arrived."""

    def __init__(self, cable: Cable, source: Place, target: Place) -> None:
        self.cable = cable
        self.source = source
        self.target = target
        self.sender: SimConnection | None = None
        self.receiver: SimConnection | None = None
        self._network = cable.network
        self._pieces: deque[tuple[float, bytes | None]] = deque()
        self._size = 0
        self._last = 0.0
        self._paused = False
        self._looking = False
        self._over = False

    def send(self, data: bytes) -> None:
        """Puts bytes under way."""
        if self._over or self.cable.hushed:
            return
        self.cable.remember(self, data)
        self._size += len(data)
        for piece in self._pieces_of(data):
            self._push(piece)
        if self._size > _HIGH and not self._paused and self.sender is not None:
            self._paused = True
            self.sender.full()

    def finish(self) -> None:
        """There will be no more bytes; the other end hears of it after those before."""
        if not (self._over or self.cable.hushed):
            self._push(None)
        self._over = True

    def cut(self) -> None:
        """The receiver loses the connection, and what was under way."""
        self._over = True
        self.lose()
        if self.receiver is not None:
            self._network.loop.post(self.target, self._network.trip(), self.receiver.was_reset)

    def lose(self) -> None:
        """What is under way is lost."""
        self._pieces.clear()
        self._size = 0

    def look(self) -> None:
        """Sees that the next piece is taken when it has arrived."""
        if self._pieces and not self._looking and self.receiver is not None:
            self._looking = True
            loop = self._network.loop
            wait = max(self._pieces[0][0], self.cable.blocked_until()) - loop.time()
            loop.post(self.target, max(0.0, wait), self._arrive)

    def look_again(self) -> None:
        """What was held may arrive sooner than it seemed."""
        self._looking = False
        self.look()

    def _pieces_of(self, data: bytes) -> list[bytes]:
        network = self._network
        slow = network.loop.time() < self.cable.slow_until
        if len(data) < 2 or not (slow or network.rng.random() < network.weather.split):
            return [data]
        cut = 1 + int(network.rng.random() * (len(data) - 1))
        return [data[:cut], data[cut:]]

    def _push(self, piece: bytes | None) -> None:
        network = self._network
        now = network.loop.time()
        at = now + network.trip() + (self.cable.delay if now < self.cable.slow_until else 0.0)
        self._last = at = max(self._last, at)
        self._pieces.append((at, piece))
        self.look()

    def _arrive(self) -> None:
        """Runs in the receiver's process: hands over all that is there."""
        self._looking = False
        loop, receiver = self._network.loop, self.receiver
        if receiver is None or not receiver.reads or not self._pieces:
            return
        if self.cable.blocked_until() > loop.time():
            self.look()
            return
        arrived: list[bytes] = []
        over = False
        while self._pieces and self._pieces[0][0] <= loop.time() and not over:
            _, piece = self._pieces.popleft()
            over = piece is None
            if piece is not None:
                arrived.append(piece)
        if arrived:
            self._hand_over(receiver, b"".join(arrived))
        if over:
            receiver.was_closed()
        self.look()

    def _hand_over(self, receiver: SimConnection, data: bytes) -> None:
        network = self._network
        network.delivered += 1
        network.on_bytes(self.cable, self.target.name, data)
        self._size = max(0, self._size - len(data))
        if self._paused and self._size < _LOW:
            self._paused = False
            if self.sender is not None:
                network.loop.post(self.source, 0.0, self.sender.drained)
        receiver.arrived(data)


class SimConnection(Connection):
    """One end of a connection."""

    _lane: _Lane | None = None
    _from: _Lane | None = None
    _reads = True

    def begin(self, handler: Handler) -> None:
        """Gives it its handler, which is told of it."""
        self._begin(handler)

    @property
    def reads(self) -> bool:
        """Whether it takes what has arrived."""
        return self._reads

    def pause_reading(self) -> None:
        """See `Connection.pause_reading`."""
        self._reads = False

    def resume_reading(self) -> None:
        """See `Connection.resume_reading`."""
        self._reads = True
        if self._from is not None:
            self._from.look_again()

    def plug(self, lane: _Lane, origin: _Lane) -> None:
        """The lane for what it says, and that of what it hears."""
        self._lane = lane
        self._from = origin

    def arrived(self, data: bytes) -> None:
        """Bytes came: into the handler's own buffer, where it has given one."""
        while data and self._view is not None:
            count = min(len(self._view), len(data))
            self._view[:count] = data[:count]
            data = data[count:]
            self._filled(count)
        if data:
            self._take(data)

    def full(self) -> None:
        """Too much is under way. Who never reads is cut off, as by a real connection."""
        self._paused = True
        if self.stall_timeout is not None and not self.closing:
            self._stall = self._loop.call_later(
                self.stall_timeout, self.abort, context=self._context
            )

    def drained(self) -> None:
        """It may go on."""
        if not self._lost:
            self._paused = False
            self._forget_stall()
            self.wake()

    def was_closed(self) -> None:
        """The other end has closed."""
        self._unplug(cut=False)
        self._end(None)

    def was_reset(self) -> None:
        """The connection is lost."""
        self._unplug(cut=True)
        self._end(ConnectionResetError("the connection was reset"))

    def _write(self, data: Buffers) -> None:
        if self._lane is not None:
            whole = isinstance(data, bytes | bytearray | memoryview)
            self._lane.send(bytes(data) if whole else b"".join(data))

    def _close(self) -> None:
        self._unplug(cut=False)
        self._loop.call_soon(self._end, None, context=self._context)

    def _abort(self) -> None:
        self._unplug(cut=True)
        self._loop.call_soon(self._end, None, context=self._context)

    def _unplug(self, *, cut: bool) -> None:
        lane, self._lane = self._lane, None
        if lane is None:
            return
        if cut:
            lane.cut()
        else:
            lane.finish()
        lane.sender = None
        lane.cable.ended()


class _SimListener(Listener):
    def __init__(
        self,
        network: SimNetwork,
        address: str,
        place: Place,
        accept: Accept,
        close_timeout: float,
    ) -> None:
        self.address = address
        self.place = place
        self._network = network
        self._accept = accept
        self._close_timeout = close_timeout
        self._open = True

    def accepted(self, cable: Cable) -> None:
        """Runs in the listener's process: makes the far end of a connection."""
        if not self._open:
            cable.refused()
            return
        end = SimConnection("sim", cable.caller.name, self._close_timeout)
        handler = self._accept()
        cable.plug(end, caller=False)
        end.begin(handler)

    def close(self) -> None:
        """See `Listener`."""
        self._open = False
        self._network.forget_listener(self)


class SimTransport:
    """The `Transport` of one process of a simulation."""

    def __init__(self, network: SimNetwork, place: Place) -> None:
        self._network = network
        self._place = place

    async def listen(self, address: str, accept: Accept, *, close_timeout: float) -> Listener:
        """See `Transport.listen`."""
        return self._network.listen(_checked(address), self._place, accept, close_timeout)

    async def connect(
        self, address: str, handler: Handler, *, close_timeout: float
    ) -> Connection:
        """See `Transport.connect`."""
        network, place = self._network, self._place
        _checked(address)
        await asyncio.sleep(network.trip())
        listener = network.listener_at(address)
        while listener is not None:
            until = network.parted_until(place.name, listener.place.name)
            if until <= network.loop.time():
                break
            await asyncio.sleep(until - network.loop.time() + network.trip())
            listener = network.listener_at(address)
        if listener is None:
            # The cause says that nobody is there, as of a real one (see `RpcClient`).
            raise ConnectionLost(f"Nobody answers at {address}.") from FileNotFoundError(
                address
            )
        end = SimConnection("sim", listener.place.name, close_timeout)
        network.new_cable(listener, place).plug(end, caller=True)
        Context().run(end.begin, handler)  # no cause of a mutation sticks to it
        return end


def _checked(address: str) -> str:
    if ":" not in address:
        raise OptionError(f"{address!r} is no address; use SCHEME:NAME.")
    return address


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)
