"""Two sessions, and the bytes between them: a connection without I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from amnode.machine.schema import Schema, State, States
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol.client_session import ClientSession
from amnode.rpc.protocol.handshake import ClientHandshake, ServerHandshake
from amnode.rpc.protocol.memory import ClientMemory
from amnode.rpc.protocol.server_session import ServerSession
from amnode.rpc.protocol.session import Called, Event, Opened, Phase, Session
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
    """A client, a server, and what crosses.

    Attributes:
        to_server, to_client: everything that was sent, whole.
        seen_by_server, seen_by_client: the events.
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
        secrets = {"rc-me": SECRET} if known is None else known
        self.source = source or Source()
        options = options or RpcOptions()
        self.admitted: list[tuple[str, Role]] = []

        def admit(client_id: str, role: Role) -> str | None:
            self.admitted.append((client_id, role))
            return refuse

        self.server = ServerSession(
            self.source,
            mixes(len(self.source.schema)),
            ServerHandshake(
                "rs-door", server_nonce, DECOY, lambda id_, _role: secrets.get(id_), admit
            ),
            options,
        )
        handshake = ClientHandshake(client_id, role, secret, client_nonce)
        subscription = Subscription(None if states is None else tuple(states))
        self.client = ClientSession(
            handshake, ClientMemory(options), schema, subscription, options
        )
        self.to_server, self.to_client = bytearray(), bytearray()
        self.seen_by_server: list[Event | Called] = []
        self.seen_by_client: list[Event | Called] = []
        self.meddle: Callable[[bytes], bytes] = lambda data: data

    def exchange(self) -> None:
        """Carries bytes both ways until nobody has anything to say; answers mutations."""
        while True:
            up = sent_by(self.client)
            self.to_server += up
            for event in self.server.receive(up):
                self.seen_by_server.append(event)
                if isinstance(event, Called):
                    self.run(event)
            down = self.meddle(sent_by(self.server))
            self.to_client += down
            self.seen_by_client += self.client.receive(down)
            if not up and not down:
                return

    def run(self, event: Called) -> None:
        """What the source does with a mutation: each called state moves by one."""
        self.move(*event.states)
        self.server.answer(event.seq, Outcome.EXECUTED)

    def move(self, *states: int) -> None:
        """A transition of the source."""
        self.source.queue_tick += 1
        for state in states:
            self.source.now[state] += 1
        self.server.mark([(state, self.source.now[state]) for state in states])

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
