"""Two sessions, and the bytes between them: connections without I/O, which can be cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from amnode.machine.schema import Schema, State, States
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol.auth import Ticket
from amnode.rpc.protocol.client_session import ClientSession
from amnode.rpc.protocol.handshake import ClientHandshake, ServerHandshake
from amnode.rpc.protocol.memory import ClientMemory, ServerMemory
from amnode.rpc.protocol.server_session import ServerSession
from amnode.rpc.protocol.session import Admitted, Called, Event, Opened, Phase, Session
from amnode.rpc.protocol.subscription import Subscription
from amnode.rpc.protocol.sync import mixes
from amnode.rpc.protocol.wire import Outcome, Role

SECRET = b"a secret that both sides know"
DECOY = b"d" * 32
CLIENT_NONCE, SERVER_NONCE = bytes(range(32)), bytes(range(32, 64))


class Door(States):
    """What the tests follow."""

    Open = State(require=("Unlocked",), remove=("Closed",))
    "The door can be walked through."
    Closed = State(remove=("Open",))
    "It cannot."
    Unlocked = State()
    "It could be opened."
    Knocked = State(multi=True)
    "Somebody is there."


class Source:
    """A source whose ticks the test sets by hand."""

    def __init__(self, schema: Schema | None = None) -> None:
        self.root_id = "door"
        self.incarnation = b"i" * 16
        self.schema = schema or Door.schema()
        self.now = [0] * len(self.schema)
        self.queue_tick = 1
        self.machine_tick = 0

    @property
    def followed_states(self) -> Sequence[int]:
        return range(len(self.schema))

    def ticks(self) -> Sequence[int]:
        return self.now


class Pair:
    """A client, a server, and what crosses; one connection after another.

    Attributes:
        to_server, to_client: everything that was sent on this connection, whole.
        seen_by_server, seen_by_client: the events.
        kept: what the server keeps of the session, for the next connection.
        served: the session through which the source speaks, also while nobody is there.
        meddle: changes what the client gets, on its way.
    """

    def __init__(
        self,
        *,
        source: Source | None = None,
        schema: Schema | None = None,
        states: Sequence[str] | None = None,
        role: Role = Role.CONTROLLER,
        client_id: str = "rc-me",
        secret: bytes = SECRET,
        known: dict[str, bytes] | None = None,
        refuse: str | None = None,
        options: RpcOptions | None = None,
        client_nonce: bytes = CLIENT_NONCE,
        server_nonce: bytes = SERVER_NONCE,
    ) -> None:
        self.source = source or Source()
        self.secrets = {"rc-me": SECRET} if known is None else known
        self.refuse = refuse
        self.options = options or RpcOptions()
        self.schema = schema
        self.subscription = Subscription(None if states is None else tuple(states))
        self.who = client_id, role, secret
        self.admitted: list[tuple[str, Role]] = []
        self.kept: ServerMemory | None = None
        self.seen_by_server: list[Event | Called] = []
        self.seen_by_client: list[Event | Called] = []
        self.meddle: Callable[[bytes], bytes] = lambda data: data
        self._nonces = count(64)
        memory = ClientMemory(self.options)
        self._connect(client_id, role, secret, memory, None, client_nonce, server_nonce)
        self.served = self.server

    def _connect(
        self,
        client_id: str,
        role: Role,
        secret: bytes,
        memory: ClientMemory,
        ticket: Ticket | None,
        client_nonce: bytes,
        server_nonce: bytes,
    ) -> None:
        handshake = ServerHandshake(
            "rs-door",
            server_nonce,
            DECOY,
            lambda id_, _role: self.secrets.get(id_),
            self._admit,
            key_of=self._key_of,
        )
        factors = mixes(len(self.source.schema))
        self.server = ServerSession(self.source, factors, handshake, self.options)
        self.client = ClientSession(
            ClientHandshake(client_id, role, secret, client_nonce, resume=ticket),
            memory,
            self.schema,
            self.subscription,
            self.options,
        )
        self.to_server, self.to_client = bytearray(), bytearray()

    def _admit(self, client_id: str, role: Role) -> str | None:
        self.admitted.append((client_id, role))
        return self.refuse

    def _key_of(self, session: bytes, client_id: str, role: Role) -> bytes | None:
        """The key of the one session that there is, as a mux looks it up."""
        kept = self.kept
        if kept is None or kept.ticket is None or kept.ticket.session != session:
            return None
        return kept.ticket.key if (client_id, role) == self.who[:2] else None

    # -- cut, and back ---------------------------------------------------------------------

    def cut(self) -> None:
        """The connection is gone, with all that is on its way."""
        self.client.cut(), self.server.cut()

    def reconnect(
        self,
        *,
        client_id: str | None = None,
        role: Role | None = None,
        secret: bytes | None = None,
        ticket: Ticket | None = None,
    ) -> None:
        """A new connection of the client, which asks for its session (or another)."""
        self.cut()
        mine = self.who
        nonces = [bytes([next(self._nonces) % 256]) * 32 for _ in range(2)]
        memory = self.client.memory
        self._connect(
            client_id or mine[0],
            role or mine[1],
            secret or mine[2],
            memory,
            ticket or memory.ticket,
            nonces[0],
            nonces[1],
        )

    def resume(self) -> Opened:
        """A new connection, on which the session goes on; all that is due is carried."""
        self.reconnect()
        at = len(self.seen_by_client)
        self.exchange()
        return opened_of(self.seen_by_client[at:])

    # -- carrying --------------------------------------------------------------------------

    def exchange(self) -> None:
        """Carries bytes both ways until nobody has anything to say; answers mutations."""
        while self.turn():
            pass

    def turn(self) -> bool:
        """Carries what there is, once each way; False if there was nothing."""
        up = sent_by(self.client)
        self.carry_up(up)
        down = self.meddle(sent_by(self.server))
        self.carry_down(down)
        return bool(up or down)

    def carry_up(self, data: bytes) -> None:
        """Some bytes arrive at the server."""
        self.to_server += data
        for event in self.server.receive(data):
            self.seen_by_server.append(event)
            if isinstance(event, Called):
                self.run(event)
            else:
                self._serve(event)

    def carry_down(self, data: bytes) -> None:
        """Some bytes arrive at the client."""
        self.to_client += data
        self.seen_by_client += self.client.receive(data)

    def _serve(self, event: Event) -> None:
        """What a server does about its session."""
        if isinstance(event, Admitted) and event.resumed:
            assert self.kept is not None
            self.server.memory = self.kept
            self.served = self.server
        elif isinstance(event, Opened):
            self.kept = self.server.memory
            self.served = self.server

    def run(self, event: Called) -> None:
        """What the source does with a mutation: each called state moves by one."""
        self.move(*event.states)
        self.served.answer(event.seq, Outcome.EXECUTED)

    def move(self, *states: int) -> None:
        """A transition of the source."""
        self.source.queue_tick += 1
        for state in states:
            self.source.now[state] += 1
        self.served.mark(states, self.source.now)

    def opened(self) -> Pair:
        """The pair, with the handshake done."""
        self.exchange()
        assert (self.client.phase, self.server.phase) == (Phase.OPEN, Phase.OPEN)
        self.seen_by_client.clear()
        self.seen_by_server.clear()
        return self


def sent_by(session: Session) -> bytes:
    """What a session has to say, in one piece."""
    data = session.to_send()
    return data if isinstance(data, bytes) else b"".join(data)


def deliver(session: Session, data: bytes) -> list[Any]:
    """All events of some bytes; a mutation among them is not run."""
    return list(session.receive(data))


def opened_of(events: Sequence[Event | Called]) -> Opened:
    """The one event that says that the handshake is done."""
    (event,) = (event for event in events if isinstance(event, Opened))
    return event
