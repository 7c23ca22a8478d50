"""The security checklist: handshakes, decoding, roles, downgrade, secrets.

What strangers find at real doors is in test_security_doors.py. Past 800 lines, since it is one
list, whose items share the sites that they attack.
"""

from __future__ import annotations

import ast
import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

import amnode
from amnode.errors import AuthError, OptionError, ProtocolError, RefusedError
from amnode.machine.machine import Machine
from amnode.rpc.client import RpcClient
from amnode.rpc.exposure import Exposure
from amnode.rpc.link import Link
from amnode.rpc.mux import Mux
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.auth import Prover, Ticket, Transcript, prove, ticket
from amnode.rpc.protocol.handshake import ClientHandshake, ServerHandshake
from amnode.rpc.protocol.wire import Role
from amnode.rpc.transport.port import Connection
from tests.fuzz.grammar import HUGE, ODD, framed
from tests.fuzz.rooms import (
    ALLOWED,
    CLOSED,
    EXPOSURE,
    HANDSHAKES,
    NAMED,
    NONCE,
    OPEN,
    SCHEMA,
    SECRET,
    ClientRoom,
    Hall,
    Room,
    ServerRoom,
    Wire,
    Wires,
)
from tests.pairs.driven import House

SOURCE = Path(next(iter(amnode.__path__)))


def files() -> Iterator[tuple[str, ast.Module]]:
    """Every file of the package, parsed."""
    for path in sorted(SOURCE.rglob("*.py")):
        yield str(path.relative_to(SOURCE)), ast.parse(path.read_text())


# -- 3: handshakes -------------------------------------------------------------------------


class Site:
    """A server's side of handshakes: who has which secret, which sessions there are."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.secrets = {"rc-me": dice.randbytes(32), "rc-you": dice.randbytes(32)}
        self.decoy = dice.randbytes(32)
        self.sessions: dict[bytes, tuple[str, Role, bytes]] = {}
        self.admitted = 0

    def nonce(self) -> bytes:
        return self.dice.randbytes(32)

    def server(self) -> ServerHandshake:
        return ServerHandshake(
            "rs-door",
            self.nonce(),
            self.decoy,
            lambda client_id, _role: self.secrets.get(client_id),
            self._admit,
            key_of=self._key_of,
        )

    def client(
        self, client_id: str = "rc-me", role: Role = Role.OBSERVER, resume: Ticket | None = None
    ) -> ClientHandshake:
        secret = self.secrets[client_id]
        return ClientHandshake(client_id, role, secret, self.nonce(), resume=resume)

    def opened(self, **who: Any) -> tuple[Ticket, list[wire.Message]]:
        """An honest client's session, and what crossed."""
        client, server = self.client(**who), self.server()
        hello = client.hello()
        challenge = server.greeted(hello)
        proof = client.challenged(challenge)
        welcome = server.proved(proof)
        client.welcomed(welcome)
        self.admitted -= 1
        assert client.ticket == server.ticket and client.ticket is not None
        self.sessions[client.ticket.session] = (
            hello.client_id,
            hello.role,
            client.ticket.key,
        )
        return client.ticket, [hello, challenge, proof, welcome]

    def _admit(self, _client_id: str, _role: Role) -> None:
        self.admitted += 1

    def _key_of(self, session: bytes, client_id: str, role: Role) -> bytes | None:
        found = self.sessions.get(session)
        return found[2] if found is not None and found[:2] == (client_id, role) else None


def transcript(hello: wire.Hello, challenge: wire.Challenge, **changed: Any) -> Transcript:
    """What both said, but for what is changed."""
    said = Transcript(
        wire.VERSION,
        hello.role,
        hello.client_id,
        challenge.server_id,
        hello.nonce,
        challenge.nonce,
        hello.session,
        challenge.resumed,
        (hello.keepalive, challenge.keepalive),
    )
    return msgspec.structs.replace(said, **changed)


def other_secret(site: Site, proof: Callable[..., None]) -> None:
    """Wrong secrets: random, empty, a prefix, a bit off, somebody else's."""
    right = site.secrets["rc-me"]
    wrong = [site.nonce(), b"", right[:-1], right + b"\1", site.secrets["rc-you"]]
    bit = bytearray(right)
    bit[site.dice.randrange(32)] ^= 1 << site.dice.randrange(8)
    hello = site.client().hello()
    proof(hello, lambda c: prove(Prover.CLIENT, site.dice.choice([*wrong, bytes(bit)]), c))


def other_words(site: Site, proof: Callable[..., None]) -> None:
    """The right secret over something else than what was said."""
    hello = site.client().hello()
    field, value = site.dice.choice(
        [
            ("version", 1),
            ("version", 3),
            ("role", Role.CONTROLLER),
            ("client_id", "rc-you"),
            ("server_id", "rs-window"),
            ("client_nonce", site.nonce()),
            ("server_nonce", site.nonce()),
            ("session", b"s" * 16),
            ("resumed", True),
            ("keepalives", (1, 0)),
            ("keepalives", (0, 1)),
        ]
    )
    proof(
        hello,
        lambda c: prove(
            Prover.CLIENT, site.secrets["rc-me"], msgspec.structs.replace(c, **{field: value})
        ),
    )


def swapped_nonces(site: Site, proof: Callable[..., None]) -> None:
    """Both nonces, the other way round."""
    hello = site.client().hello()
    proof(
        hello,
        lambda c: prove(
            Prover.CLIENT,
            site.secrets["rc-me"],
            msgspec.structs.replace(
                c, client_nonce=c.server_nonce, server_nonce=c.client_nonce
            ),
        ),
    )


def reflected(site: Site, proof: Callable[..., None]) -> None:
    """What the server itself would say, with everything else right."""
    proof(site.client().hello(), lambda c: prove(Prover.SERVER, site.secrets["rc-me"], c))


def replayed(site: Site, proof: Callable[..., None]) -> None:
    """A recorded session, again."""
    _, said = site.opened()
    hello, recorded = said[0], said[2]
    assert isinstance(recorded, wire.Proof)
    proof(hello, lambda _: recorded.proof)


def interleaved(site: Site, proof: Callable[..., None]) -> None:
    """Two connections of an honest client at once, its proofs exchanged."""
    first, second = site.client(), site.client()
    first_server = site.server()
    first.hello()
    said = first.challenged(first_server.greeted(first.hello()))
    proof(second.hello(), lambda _: said.proof)


def in_the_middle(site: Site, proof: Callable[..., None]) -> None:
    """An honest client's proof, where somebody changed a word of either side on its way."""
    client = site.client()
    hello, server = client.hello(), site.server()
    changed = site.dice.choice(
        [
            {"role": Role.CONTROLLER},
            {"client_id": "rc-you"},
            {"nonce": site.nonce()},
            {"session": b"s" * 16},
            {"keepalive": 7},
            {},
        ]
    )
    challenge = server.greeted(msgspec.structs.replace(hello, **changed))
    if not changed:
        changed = site.dice.choice(
            [{"server_id": "rs-x"}, {"nonce": site.nonce()}, {"keepalive": 7}]
        )
        challenge = msgspec.structs.replace(challenge, **changed)
    with pytest.raises(AuthError):
        server.proved(client.challenged(challenge))


def resumed(site: Site, proof: Callable[..., None]) -> None:
    """A session that is here, without its key; or with that of another one."""
    mine, _ = site.opened()
    yours, _ = site.opened(client_id="rc-you")
    mighty, _ = site.opened(role=Role.CONTROLLER)
    secret = site.secrets["rc-me"]
    session, key = site.dice.choice(
        [
            (mine.session, secret),
            (mine.session, site.nonce()),
            (mine.session, mine.session * 2),
            (mine.session, yours.key),
            (yours.session, mine.key),
            (mighty.session, mighty.key),  # it is no observer's
            (yours.session, yours.key),  # it is not rc-me's
            (b"gone" * 4, mine.key),
        ]
    )
    hello = wire.Hello(wire.VERSION, "rc-me", Role.OBSERVER, site.nonce(), session, 0)
    proof(hello, lambda c: prove(Prover.CLIENT, key, c))


def resumed_again(site: Site, proof: Callable[..., None]) -> None:
    """A recorded resumption, again; and one whose flag somebody changed."""
    mine, _ = site.opened()
    client, server = site.client(resume=mine), site.server()
    challenge = server.greeted(client.hello())
    assert challenge.resumed
    said = client.challenged(challenge)
    if site.dice.random() < 0.5:
        proof(client.hello(), lambda _: said.proof)
        return
    client = site.client(resume=mine)
    server = site.server()
    challenge = server.greeted(client.hello())
    plain = msgspec.structs.replace(challenge, resumed=False)
    with pytest.raises(AuthError):
        server.proved(client.challenged(plain))


def impostor(site: Site, _proof: Callable[..., None]) -> None:
    """A server that does not know the secret, or the key of the session."""
    mine, said = site.opened()
    resume = site.dice.choice([None, mine])
    client = site.client(resume=resume)
    hello = client.hello()
    challenge = wire.Challenge(wire.VERSION, "rs-door", site.nonce(), resume is not None, 0)
    proof = client.challenged(challenge)
    recorded = said[3]
    assert isinstance(recorded, wire.Welcome)
    heard = transcript(hello, challenge)
    welcome = site.dice.choice(
        [
            site.nonce(),
            proof.proof,  # reflected
            recorded.proof,  # replayed
            prove(Prover.SERVER, site.nonce(), heard),
            prove(Prover.SERVER, b"", heard),
            prove(Prover.SERVER, site.secrets["rc-me" if resume else "rc-you"], heard),
        ]
    )
    with pytest.raises(AuthError):
        client.welcomed(wire.Welcome(welcome))
    assert client.ticket is None or client.ticket is resume


def resumes_unasked(site: Site, _proof: Callable[..., None]) -> None:
    """A server that wants a client to prove a key which it never had."""
    client = site.client()
    with pytest.raises(ProtocolError, match="nobody asked for"):
        client.challenged(wire.Challenge(wire.VERSION, "rs-door", site.nonce(), True, 0))


def nobody(site: Site, proof: Callable[..., None]) -> None:
    """A client that the server does not know, with what stands in for its secret."""
    hello = wire.Hello(wire.VERSION, "rc-nobody", Role.OBSERVER, site.nonce(), b"", 0)
    key = site.dice.choice([site.decoy, b"", site.secrets["rc-me"]])
    proof(hello, lambda c: prove(Prover.CLIENT, key, c))


ATTACKS = [
    nobody,
    other_secret,
    other_words,
    swapped_nonces,
    reflected,
    replayed,
    interleaved,
    in_the_middle,
    resumed,
    resumed_again,
    impostor,
    resumes_unasked,
]


def test_3_none_of_ten_thousand_handshakes_passes() -> None:
    seed = 3
    site = Site(Random(seed))

    def proof(hello: wire.Hello, made: Callable[[Transcript], bytes]) -> None:
        """Says hello and proves; it must not help."""
        server = site.server()
        challenge = server.greeted(hello)
        with pytest.raises(AuthError):
            server.proved(wire.Proof(made(transcript(hello, challenge))))

    for at in range(10_000):
        site.sessions.clear()
        ATTACKS[at % len(ATTACKS)](site, proof)
        assert site.admitted == 0, f"{ATTACKS[at % len(ATTACKS)].__name__}, seed {seed}"
    site.opened()
    mine, _ = site.opened()
    client, server = site.client(resume=mine), site.server()
    client.welcomed(server.proved(client.challenged(server.greeted(client.hello()))))
    assert site.admitted == 1 and client.resumed, "who is honest does pass"


def test_3_the_key_of_a_session_says_nothing_of_the_secret_or_of_other_sessions() -> None:
    site = Site(Random(1))
    found = [site.opened()[0] for _ in range(100)]
    assert len({each.session for each in found}) == len({each.key for each in found}) == 100
    assert all(each.session not in each.key for each in found)
    said = Transcript(wire.VERSION, Role.OBSERVER, "a", "b", NONCE, NONCE)
    proofs = {prove(prover, SECRET, said) for prover in Prover}
    assert ticket(SECRET, said).key not in proofs


# -- 4: constant time ----------------------------------------------------------------------

SECRET_WORDS = ("secret", "token", "proof", "digest", "hmac", "password")


def test_4_secrets_are_compared_by_compare_digest_and_nowhere_else() -> None:
    found: list[str] = []
    compared: list[str] = []
    for name, tree in files():
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                equal = any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
                text = ast.unparse(node)
                # Lengths are no secret, and what the simulator searches has none.
                harmless = "len(" in text or name.startswith("testing/")
                if (
                    equal
                    and not harmless
                    and any(word in text.lower() for word in SECRET_WORDS)
                ):
                    found.append(f"{name}: {text}")
            elif isinstance(node, ast.Attribute) and node.attr == "compare_digest":
                compared.append(name)
    assert found == []
    assert "rpc/protocol/auth.py" in compared


def test_4_the_refusal_of_a_session_does_not_tell_what_was_wrong_with_it() -> None:
    """Nor whether the session is there: who asks for one is told that, and no more."""
    site = Site(Random(4))
    site.opened()
    texts = set[str]()
    for client_id in ("rc-me", "rc-you", "rc-nobody"):
        for session in (*site.sessions, b"gone" * 4, b""):
            server = site.server()
            hello = wire.Hello(wire.VERSION, client_id, Role.OBSERVER, NONCE, session, 0)
            server.greeted(hello)
            with pytest.raises(AuthError) as caught:
                server.proved(wire.Proof(b"p" * 32))
            texts.add(str(caught.value))
    assert len(texts) == 1


# -- 5: no dangerous decoding --------------------------------------------------------------

FORBIDDEN_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}
#: A call of an executor is code; these unpickle what its own workers and its program sent.
MAY_PICKLE = {"node/executor_pickle.py", "node/executor_wire.py"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
#: Files that import by name, and where they have the name from.
IMPORT_BY_NAME = {
    "__init__.py",  # its own table
    "machine/__main__.py",  # the command line
    "node/class_name.py",  # the program that starts a worker, or calls one
    "launch/entry.py",  # the command line
    "cli/diagram.py",  # the command line
    "cli/up.py",  # its settings, or the command line
    "node/executor_pickle.py",  # cloudpickle, if it is installed
    "launch/forking.py",  # what the program that starts workers has it load before the fork
}


def test_5_nothing_in_the_package_makes_code_of_data() -> None:
    found: list[str] = []
    importers = set[str]()
    for name, tree in files():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                parts = {part for each in names for part in each.split(".")}
                if name not in MAY_PICKLE:
                    found += [f"{name}: {part}" for part in sorted(parts & FORBIDDEN_MODULES)]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in FORBIDDEN_CALLS:
                    found.append(f"{name}: {called}")
                if called.endswith(("import_module", "module_from_spec", "exec_module")):
                    importers.add(name)
    assert found == []
    assert importers <= IMPORT_BY_NAME


# -- 7: depth, width, numbers --------------------------------------------------------------


def variants() -> Iterator[list[Any]]:
    """Each message with each field odd, one too few and one too many fields."""
    for tag, fields in MESSAGES.items():
        yield [tag, *fields[:-1]] if fields else [tag, None]
        yield [tag, *fields, None]
        for at in range(len(fields)):
            for odd in ODD:
                yield [tag, *fields[:at], odd, *fields[at + 1 :]]
    for odd in ODD:
        yield [odd]


MESSAGES: dict[int, list[Any]] = {
    1: [wire.VERSION, "rc-me", "controller", b"n" * 32, b"", 0],
    2: [wire.VERSION, "rs-hall", b"n" * 32, False, 0],
    3: [b"p" * 32],
    4: [b"p" * 32],
    5: [b"", None, 0, 0],
    6: ["hall", list(SCHEMA.names), None, None, [0, 1, [0] * len(SCHEMA), 1]],
    7: [["RpcError", "x", {}]],
    8: ["bye"],
    9: [],
    16: [1, 0, [0], None],
    17: [1, 0, None, None],
    18: [1],
    19: [[[0, 1], 0, 0]],
    20: [],
    21: [[0, 1, [0] * len(SCHEMA), 1]],
    22: [1, "name", None],
    23: [[[0, 1], 0, 0], 0, [0]],
    24: [0, 0],
    25: [1, 1],
    26: [1, b"x"],
    27: [1],
    28: [1],
    29: [1, 1, None],
    30: [1, 0, 1],
    31: [1, None],
    32: [1],
}


def test_7_the_table_here_has_every_message_of_the_protocol() -> None:
    classes = wire.Message.__subclasses__()
    assert sorted(MESSAGES) == sorted(each.__struct_config__.tag for each in classes)


@pytest.mark.parametrize("side", [ServerRoom, ClientRoom])
@pytest.mark.parametrize("depth", range(OPEN + 1))
def test_7_every_field_of_every_message_may_be_odd(
    side: Callable[[int, Role], Room], depth: int
) -> None:
    """The rules of the room hold; see tests/fuzz/rooms.py."""
    room, fresh = side(depth, Role.CONTROLLER), 0
    for message in variants():
        room.take(framed(msgspec.msgpack.encode(message)))
        room.check()
        if room.closed is not None or fresh > 30:
            room, fresh = side(depth, Role.CONTROLLER), 0
        fresh += 1


@pytest.mark.parametrize("side", [ServerRoom, ClientRoom])
@pytest.mark.parametrize("huge", range(len(HUGE)))
def test_7_a_million_deep_or_wide_is_an_error_or_a_value(
    side: Callable[[int, Role], Room], huge: int
) -> None:
    for tag, fields in MESSAGES.items():
        for at in range(len(fields)):
            room = side(OPEN, Role.CONTROLLER)
            message = [tag, *fields[:at], HUGE[huge], *fields[at + 1 :]]
            room.take(framed(msgspec.msgpack.encode(message)))
            room.check()


# -- 12: roles -----------------------------------------------------------------------------


class Served:
    """A mux on a machine, without I/O, and peers that say what they like."""

    def __init__(self, exposure: Exposure = EXPOSURE) -> None:
        self.machine = Machine(Hall, id="hall")
        self.wires = Wires()
        self.mux = Mux(
            self.machine,
            "memory:hall",
            name="hall",
            secret_of=lambda client_id, _role: SECRET if client_id == "rc-me" else None,
            exposure=exposure,
            options=RpcOptions(keepalive=0),
            transport=self.wires,
            entropy=lambda size: NONCE[:size],
        )

    def peer(self, role: Role) -> Wire:
        """A client that knows the secret, as far as it gets."""
        peer = Wire()
        peer.begin(self.wires.accept())
        for message in HANDSHAKES[role].up:
            peer.arrive(message)
        return peer

    def stale(self) -> Wire:
        """A client whose session has ended, and that wants to resume it with its key."""
        peer = self.peer(Role.CONTROLLER)
        (session,) = self.mux._sessions
        key = self.mux._sessions[session].session_key
        assert key is not None
        peer.arrive(wire.to_frame(wire.Goodbye("done")))
        assert not self.mux._sessions and not self.mux.servers
        late = Wire()
        late.begin(self.wires.accept())
        hello = wire.Hello(wire.VERSION, "rc-me", Role.CONTROLLER, NONCE, session, 0)
        late.arrive(wire.to_frame(hello))
        challenge = wire.from_frame(late.written[-1][4:])
        assert isinstance(challenge, wire.Challenge) and not challenge.resumed
        said = transcript(hello, challenge)
        late.arrive(wire.to_frame(wire.Proof(prove(Prover.CLIENT, key, said))))
        late.arrive(HANDSHAKES[Role.CONTROLLER].up[2])
        return late

    def second(self) -> Wire:
        """The same client, while its first connection is open."""
        self.peer(Role.CONTROLLER)
        return self.peer(Role.CONTROLLER)

    def as_(self, who: str) -> Wire:
        """A peer of a row of the table."""
        if who == "second":
            return self.second()
        return self.stale() if who == "stale" else self.peer(Role(who))

    async def close(self) -> None:
        await self.mux.stop()
        await self.mux.machine.dispose()
        await self.machine.dispose()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A mux that listens."""
    served = Served()
    await served.mux.start()
    yield served
    await served.close()


def table() -> Iterator[tuple[str, list[Any]]]:
    """Every message, and every mutation and request of every state."""
    for tag, fields in MESSAGES.items():
        if tag != 16:
            yield f"message {tag}", [tag, *fields]
    every = list(range(len(SCHEMA)))
    for type_ in range(7):
        for states in [*([state] for state in every), [0, CLOSED], every, []]:
            for args in (None, {"n": 1}):
                yield f"type {type_} of {states}, {args}", [16, 1, type_, states, args]


TABLE = dict(table())


@pytest.mark.parametrize("who", ["observer", "second", "stale", "controller"])
async def test_12_what_each_message_may_move(served: Served, who: str) -> None:
    moved: dict[str, list[int]] = {}
    for name, message in TABLE.items():
        peer = served.as_(who)
        before = [*served.machine.ticks()]
        queue = served.machine.queue_tick
        peer.arrive(framed(msgspec.msgpack.encode(message)))
        after = [*served.machine.ticks()]
        if after != before or served.machine.queue_tick != queue:
            moved[name] = [at for at in range(len(SCHEMA)) if after[at] != before[at]]
        for server in [*served.mux.servers.values()]:
            server.close("the next row")
        await asyncio.sleep(0)
    if who != "controller":
        assert moved == {}
        return
    assert not any(served.machine.ticks()[CLOSED:])
    expected = {
        name
        for name, message in TABLE.items()
        if message[0] == 16 and message[2] < 4 and message[3] and _may(*message[2:])
    }
    assert set(moved) <= expected and len(moved) >= 4


def _may(type_: int, states: list[int], args: Any) -> bool:
    return set(states) <= ALLOWED[type_] and (NAMED in states) == (args is not None)


async def test_12_a_second_client_is_refused_with_a_reason(served: Served) -> None:
    peer = served.second()
    failure = wire.from_frame(peer.written[-1][4:])
    assert isinstance(failure, wire.Failure) and "connected already" in failure.error.message
    assert peer.closing and len(served.mux.servers) == 1


@pytest.mark.parametrize(
    ("client_id", "role", "resumed"),
    [
        ("rc-me", Role.OBSERVER, True),
        ("rc-me", Role.CONTROLLER, False),
        ("rc-you", Role.OBSERVER, False),
    ],
)
async def test_12_a_session_is_resumed_by_its_client_in_its_role_only(
    served: Served, client_id: str, role: Role, resumed: bool
) -> None:
    served.peer(Role.OBSERVER)
    ((session, server),) = served.mux._sessions.items()
    key = server.session_key
    assert key is not None
    late = Wire()
    late.begin(served.wires.accept())
    hello = wire.Hello(wire.VERSION, client_id, role, NONCE, session, 0)
    late.arrive(wire.to_frame(hello))
    challenge = wire.from_frame(late.written[-1][4:])
    assert isinstance(challenge, wire.Challenge) and challenge.resumed == resumed
    said = transcript(hello, challenge)
    late.arrive(wire.to_frame(wire.Proof(prove(Prover.CLIENT, key, said))))
    assert late.closing != resumed and len(served.mux.servers) == 1
    late.arrive(HANDSHAKES[role].up[2] + framed(msgspec.msgpack.encode([16, 1, 0, [0], None])))
    assert not any(served.machine.ticks())


async def test_12_who_could_change_a_closed_state_by_relations_is_not_served() -> None:
    """See unit/rpc/test_exposure.py; here, that a mux asks."""
    with pytest.raises(
        OptionError, match=r"may end Locked, which is closed.*Exposure\.implied"
    ):
        Served(Exposure(mutable={"Closed": None}, removable={"Closed": None}))


# -- 17: downgrade -------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 1, wire.VERSION - 1, wire.VERSION + 1, (1 << 63) - 1])
def test_17_another_version_is_refused_on_both_sides(version: int) -> None:
    site = Site(Random(17))
    hello = msgspec.structs.replace(site.client().hello(), version=version)
    with pytest.raises(RefusedError, match=f"version {version} "):
        site.server().greeted(hello)
    with pytest.raises(RefusedError, match=f"version {version} "):
        site.client().challenged(wire.Challenge(version, "rs-door", NONCE, False, 0))


@pytest.mark.parametrize("version", [1, wire.VERSION + 1])
def test_17_the_version_is_part_of_what_is_proved(version: int) -> None:
    site = Site(Random(17))
    server, client = site.server(), site.client()
    challenge = server.greeted(client.hello())
    said = transcript(client.hello(), challenge, version=version)
    with pytest.raises(AuthError):
        server.proved(wire.Proof(prove(Prover.CLIENT, site.secrets["rc-me"], said)))


# -- S21: secrets --------------------------------------------------------------------------

CANARY = b"canary-7f1b0c-secret-of-this-test-only"


def spellings(secret: bytes) -> list[bytes]:
    """How it might have been written."""
    return [secret, secret.hex().encode(), repr(secret)[2:-1].encode(), repr(secret).encode()]


class Witness:
    """Everything that crosses connections in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.crossed = bytearray()
        for kind in _concrete(Connection):
            if "_write" in vars(kind):
                self._listen(monkeypatch, kind)

    def _listen(self, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
        write = kind._write

        def noted(connection: Connection, data: Any) -> None:
            self.crossed += data if isinstance(data, bytes) else b"".join(data)
            write(connection, data)

        monkeypatch.setattr(kind, "_write", noted)


def _concrete(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield each
        yield from _concrete(each)


def reprs() -> Iterator[str]:
    """How all objects of the package that there are show themselves, and their fields."""
    for found in gc.get_objects():
        if str(type(found).__module__).startswith("amnode."):
            yield repr(found)
            for name in getattr(type(found), "__slots__", ()):
                value = getattr(found, name, None)
                if not isinstance(value, bytes | str):
                    yield repr(value)
            own: Mapping[str, Any] = getattr(found, "__dict__", {})
            yield from (
                repr(v) for v in own.values() if str(type(v).__module__).startswith("amnode.")
            )


@pytest.mark.parametrize("address", ["unix", "memory"])
async def test_s21_a_secret_is_in_no_frame_log_repr_story_or_error(
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    witness = Witness(monkeypatch)
    house = House(f"unix:{tmp_path}/door" if address == "unix" else "memory:canary")
    house.secrets = {"rc-me": CANARY}
    written: list[str] = []
    try:
        mux = await house.mux()
        stories = [mux.machine.tell_story(), house.source.tell_story()]
        client = house.client(secret=CANARY)
        stories.append(client.machine.tell_story())
        await client.start()
        await client.source.add1("Unlocked")
        server = mux.servers["rc-me"]
        stories.append(server.machine.tell_story())
        key = server.session_key
        assert key is not None
        await server.deliver("data", {"n": 1})
        written += reprs()
        first = client._link
        assert isinstance(first, Link) and first.connection is not None
        first.connection.abort()  # it comes back, by the key
        await client.source.add1("Open")
        written += [*reprs(), *_errors(await _refused(house))]
        written += _errors(await _refused(house, client_id="rc-nobody"))
    finally:
        await house.close()
    written += [str(story) for story in stories] + caplog.messages + [repr(mux), repr(client)]
    assert len(written) > 100 and len(witness.crossed) > 500
    text = "\n".join(written).encode()
    for secret in (CANARY, key):
        for spelling in spellings(secret):
            assert spelling not in text and spelling not in witness.crossed


async def _refused(house: House, client_id: str = "rc-me") -> BaseException:
    """What a client is told that has another secret."""
    client: RpcClient = house.client(id=client_id, secret=CANARY + b"-but-wrong")
    with pytest.raises(AuthError) as caught:
        await client.start()
    return caught.value


def _errors(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield repr(error)
        yield from getattr(error, "__notes__", ())
        error = error.__cause__ or error.__context__
