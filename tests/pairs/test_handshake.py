"""Handshakes through a pair of sessions: who passes, who does not, and what they are told."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from amnode.errors import (
    AuthError,
    ProtocolError,
    RefusedError,
    RpcError,
    SchemaError,
    StateUnknownError,
)
from amnode.machine.schema import Schema, State
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.auth import Prover, Transcript, prove
from amnode.rpc.protocol.session import Admitted, Closed, Greeted, Phase
from amnode.rpc.protocol.wire import Role
from tests.pairs.session_pair import (
    CLIENT_NONCE,
    SECRET,
    SERVER_NONCE,
    Door,
    Pair,
    Source,
    deliver,
    opened_of,
    sent_by,
)


def frames(data: bytes) -> list[bytes]:
    """What was sent together, frame by frame."""
    found: list[bytes] = []
    while data:
        size = 4 + int.from_bytes(data[:4], "little")
        found.append(data[:size])
        data = data[size:]
    return found


def end_of(events: list[object]) -> Closed:
    (closed,) = (event for event in events if isinstance(event, Closed))
    return closed


def failed(pair: Pair) -> RpcError:
    """What the client is told by a handshake that fails."""
    pair.exchange()
    assert Phase.OPEN not in (pair.client.phase, pair.server.phase)
    error = end_of(pair.seen_by_client).error
    assert isinstance(error, Exception)
    return error  # pyright: ignore[reportReturnType]


def test_a_client_that_knows_the_secret_gets_the_schema_and_the_time() -> None:
    source = Source()
    source.now, source.queue_tick, source.machine_tick = [1, 2, 1, 0, 4], 9, 3
    pair = Pair(source=source)
    pair.exchange()
    assert pair.seen_by_server[0] == Greeted("rc-me", Role.CONTROLLER)
    assert pair.admitted == [("rc-me", Role.CONTROLLER)]
    opened = opened_of(pair.seen_by_client)
    assert opened.machine_id == "door" and opened.selected is None
    assert dict(opened.schema) == dict(Door.schema())
    assert opened.pairs == [0, 1, 1, 2, 2, 1, 4, 4]
    follower = pair.client.follower
    assert (follower.queue_tick, follower.machine_tick) == (9, 3)


def test_the_schema_crosses_only_if_the_client_has_another() -> None:
    same, none = Pair(schema=Door.schema()), Pair()
    same.exchange(), none.exchange()
    assert opened_of(same.seen_by_client).schema is Door.schema()
    assert len(none.to_client) - len(same.to_client) > 40


def test_a_client_whose_states_the_source_has_takes_the_schema_of_the_source() -> None:
    pair = Pair(schema=Schema({"Unlocked": State(tags=("t",))}))
    pair.exchange()
    assert opened_of(pair.seen_by_client).schema.names == Door.schema().names


def test_a_client_whose_states_differ_gets_a_clear_error_and_says_so() -> None:
    pair = Pair(schema=Schema({"Unlocked": State(multi=True), "Locked": State()}))
    error = failed(pair)
    assert isinstance(error, SchemaError)
    assert "Unlocked differs in multi" in str(error) and "Locked is missing" in str(error)
    told = end_of(pair.seen_by_server)
    assert told.by_peer and isinstance(told.error, SchemaError)


def test_a_subscription_to_a_state_that_does_not_exist_is_refused_by_name() -> None:
    assert isinstance(error := failed(Pair(states=["Opn"])), StateUnknownError)
    assert "Open" in str(error)


def test_selected_states_alone_are_told() -> None:
    source = Source()
    source.now = [1, 2, 3, 4, 5]
    pair = Pair(source=source, states=["Knocked", "Open"])
    pair.exchange()
    assert opened_of(pair.seen_by_client).pairs == [0, 1, 3, 4]


# -- who does not pass -------------------------------------------------------------------


def test_a_wrong_secret_and_an_unknown_client_get_the_same_bytes() -> None:
    wrong, unknown = Pair(secret=b"wrong"), Pair(known={})
    for pair in (wrong, unknown):
        assert isinstance(failed(pair), AuthError)
        assert pair.admitted == []
    assert wrong.to_client == unknown.to_client


def test_a_server_without_the_secret_is_found_out_and_learns_nothing_of_the_schema() -> None:
    pair = Pair(known={"rc-me": SECRET}, schema=Door.schema())
    hello = sent_by(pair.client)
    deliver(pair.server, hello)
    deliver(pair.client, sent_by(pair.server))
    before = sent_by(pair.client)  # the proof
    assert b"Open" not in before
    fake = wire.to_frame(wire.Welcome(b"\x00" * 32))
    closed = end_of(deliver(pair.client, fake))
    assert isinstance(closed.error, AuthError)
    said = wire.from_frame(sent_by(pair.client)[4:])
    assert isinstance(said, wire.Failure)


def test_a_client_that_is_not_admitted_gets_the_reason() -> None:
    error = failed(Pair(refuse="the door is being painted"))
    assert isinstance(error, RefusedError)
    assert str(error) == "the door is being painted"


def transcript(**changes: object) -> Transcript:
    fields: dict[str, object] = {
        "version": wire.VERSION,
        "role": Role.CONTROLLER,
        "client_id": "rc-me",
        "server_id": "rs-door",
        "client_nonce": CLIENT_NONCE,
        "server_nonce": SERVER_NONCE,
    }
    return Transcript(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("role", Role.OBSERVER),
        ("client_id", "rc-you"),
        ("server_id", "rs-other"),
        ("version", wire.VERSION - 1),
        ("client_nonce", b"\x01" * 32),
        ("server_nonce", b"\x02" * 32),
        ("session", b"i" * 16),
        ("resumed", True),
        ("keepalives", (1, 0)),
    ],
)
def test_a_proof_over_anything_else_does_not_pass(field: str, value: object) -> None:
    pair = Pair()
    deliver(pair.server, sent_by(pair.client))
    sent_by(pair.server)
    proof = prove(Prover.CLIENT, SECRET, transcript(**{field: value}))
    closed = end_of(deliver(pair.server, wire.to_frame(wire.Proof(proof))))
    assert isinstance(closed.error, AuthError)
    # The transcript of this test is the right one, so the field alone made the difference.
    again = Pair()
    deliver(again.server, again.client.to_send())
    good = prove(Prover.CLIENT, SECRET, transcript())
    (admitted,) = deliver(again.server, wire.to_frame(wire.Proof(good)))
    assert isinstance(admitted, Admitted) and again.admitted


def test_a_replayed_session_does_not_pass() -> None:
    recorded = Pair().opened()
    other = Pair(server_nonce=b"\x07" * 32)
    events = deliver(other.server, bytes(recorded.to_server))
    assert isinstance(end_of(events).error, AuthError)
    assert other.admitted == []


def test_a_reflected_proof_passes_neither_way() -> None:
    pair = Pair()
    deliver(pair.server, sent_by(pair.client))
    deliver(pair.client, sent_by(pair.server))
    proof = wire.from_frame(frames(sent_by(pair.client))[0][4:])
    assert isinstance(proof, wire.Proof)
    reflected = wire.to_frame(wire.Welcome(proof.proof))
    assert isinstance(end_of(deliver(pair.client, reflected)).error, AuthError)


def test_what_comes_with_a_proof_that_fails_is_not_looked_at() -> None:
    pair = Pair(secret=b"another")
    deliver(pair.server, sent_by(pair.client))
    deliver(pair.client, sent_by(pair.server))
    proof, subscribe = frames(sent_by(pair.client))
    assert isinstance(wire.from_frame(subscribe[4:]), wire.Subscribe)
    events = deliver(pair.server, proof + subscribe)
    assert isinstance(end_of(events).error, AuthError)
    (answer,) = frames(sent_by(pair.server))
    assert isinstance(wire.from_frame(answer[4:]), wire.Failure)


def test_a_client_may_subscribe_after_the_welcome() -> None:
    pair = Pair()
    deliver(pair.server, sent_by(pair.client))
    deliver(pair.client, sent_by(pair.server))
    proof, subscribe = frames(sent_by(pair.client))
    deliver(pair.server, proof)
    deliver(pair.client, sent_by(pair.server))
    deliver(pair.server, subscribe)
    deliver(pair.client, sent_by(pair.server))
    assert pair.client.phase is pair.server.phase is Phase.OPEN


def test_two_interleaved_sessions_do_not_pass_with_each_others_proofs() -> None:
    one, two = Pair(), Pair(client_nonce=b"\x05" * 32, server_nonce=b"\x06" * 32)
    for pair in (one, two):
        deliver(pair.server, sent_by(pair.client))
        deliver(pair.client, sent_by(pair.server))
    proofs = one.client.to_send(), two.client.to_send()
    for pair, proof in ((one, proofs[1]), (two, proofs[0])):
        assert isinstance(end_of(deliver(pair.server, proof)).error, AuthError)


def test_a_man_in_the_middle_who_changes_any_byte_never_passes() -> None:
    seed = 20
    dice = random.Random(seed)
    passed = 0
    first = Pair()
    hello = sent_by(first.client)
    deliver(first.server, hello)
    said = len(hello) + len(sent_by(first.server))
    for _ in range(2_000):
        pair = Pair()
        at, bit = dice.randrange(said), 1 << dice.randrange(8)
        carried = 0

        def meddle(data: bytes, at: int = at, bit: int = bit) -> bytes:
            nonlocal carried
            changed = bytearray(data)
            if carried <= at < carried + len(data):
                changed[at - carried] ^= bit
            carried += len(data)
            return bytes(changed)

        hello = meddle(sent_by(pair.client))
        deliver(pair.server, hello)
        deliver(pair.client, meddle(sent_by(pair.server)))
        deliver(pair.server, sent_by(pair.client))
        passed += bool(pair.admitted)
    assert passed == 0, f"seed {seed}"


def test_another_version_is_refused_before_anything_is_proved() -> None:
    pair = Pair()
    hello = wire.Hello(1, "rc-me", Role.CONTROLLER, CLIENT_NONCE, b"", 0)
    closed = end_of(deliver(pair.server, wire.to_frame(hello)))
    assert isinstance(closed.error, RefusedError) and "version 1" in str(closed.error)
    other = Pair()
    sent_by(other.client)
    challenge = wire.Challenge(0, "rs-door", SERVER_NONCE, False, 0)
    closed = end_of(deliver(other.client, wire.to_frame(challenge)))
    assert isinstance(closed.error, RefusedError) and "version 0" in str(closed.error)
    assert isinstance(wire.from_frame(sent_by(other.client)[4:]), wire.Failure)


# -- before trust, little is taken -------------------------------------------------------

FIRST: list[wire.Message] = [
    wire.Challenge(wire.VERSION, "s", b"n" * 32, False, 0),
    wire.Proof(b"p" * 32),
    wire.Welcome(b"p" * 32),
    wire.Subscribe(b"", None, 0, 0),
    wire.Mutate(1, 0, [0], wire.NIL),
    wire.Cancel(1),
    wire.Resync(),
    wire.Update(wire.Difference([0, 1], 1, 1)),
    wire.Snapshot(wire.ClockData(0, 0, [], 0)),
    wire.Payload(1, "p", wire.NIL),
    wire.Answer(1, wire.Outcome.EXECUTED, None, wire.NIL),
    wire.Alive(),
    wire.Step(wire.Difference([0, 1], 1, 1), 0, [0]),
    wire.Ack(0, 0),
    wire.Body(1, 1),
    wire.Chunk(1, b"x"),
    wire.Drop(1),
    wire.Credit(1),
    wire.Item(1, 1, wire.NIL),
    wire.Allow(1, 0, 1),
    wire.End(1, None),
    wire.Stop(1),
]


@pytest.mark.parametrize("message", FIRST, ids=wire.describe)
@pytest.mark.parametrize("after", [0, 1, 2])
def test_no_other_message_is_taken_before_the_handshake_is_done(
    message: wire.Message, after: int
) -> None:
    pair = Pair()
    for _ in range(after):
        deliver(pair.server, frames(sent_by(pair.client))[0])  # the proof without what follows
        deliver(pair.client, sent_by(pair.server))
    expected = [wire.Hello, wire.Proof, wire.Subscribe][after]
    if type(message) is expected:
        return
    before = [*pair.source.now]
    events = deliver(pair.server, wire.to_frame(message))
    error = end_of(events).error
    assert isinstance(error, ProtocolError) and wire.describe(message) in str(error)
    assert pair.source.now == before
    assert isinstance(wire.from_frame(sent_by(pair.server)[4:]), wire.Failure)
    assert deliver(pair.server, wire.to_frame(message)) == []  # closed for good


@pytest.mark.parametrize("side", ["server", "client"])
def test_before_trust_a_frame_over_4_kib_is_refused_by_its_length(side: str) -> None:
    pair = Pair()
    session = pair.server if side == "server" else pair.client
    closed = end_of(deliver(session, (4097).to_bytes(4, "little")))
    assert isinstance(closed.error, ProtocolError) and "4097" in str(closed.error)


def test_after_trust_a_frame_may_have_the_limit_and_no_byte_more() -> None:
    options = RpcOptions(frame_limit=8192)
    for size, fine in ((8192, True), (8193, False)):
        pair = Pair(options=options).opened()
        events = deliver(pair.server, size.to_bytes(4, "little"))
        assert (events == []) == fine


def steps(pair: Pair) -> list[bytes]:
    pair.opened()
    return [bytes(pair.to_server), bytes(pair.to_client)]


@pytest.mark.parametrize("feed", ["server", "client"])
def test_a_handshake_may_be_split_at_every_byte(feed: str) -> None:
    for size in (1, 2, 3, 5, 7, 50):
        pair = Pair()
        while True:
            up = sent_by(pair.client)
            for at in range(0, len(up), size):
                deliver(pair.server, up[at : at + size])
            down = sent_by(pair.server)
            for at in range(0, len(down), size):
                deliver(pair.client, down[at : at + size])
            if not up and not down:
                break
        assert (pair.client.phase, pair.server.phase) == (Phase.OPEN, Phase.OPEN)


def test_a_handshake_that_is_cut_at_any_byte_opens_nothing() -> None:
    whole = bytes(Pair().opened().to_server)
    subscribe = len(wire.to_frame(wire.Subscribe(b"", None, 0, 0)))
    for cut in range(len(whole)):
        pair = Pair()
        deliver(pair.server, whole[:cut])
        assert pair.server.phase is not Phase.OPEN
        assert bool(pair.admitted) == (cut >= len(whole) - subscribe)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda synced: wire.Synced("m", b"i" * 16, ["A"], None, None, synced.clock),
        lambda synced: wire.Synced("m", b"i" * 16, ["A"], synced.schema, None, synced.clock),
        lambda synced: wire.Synced("m", b"i" * 16, synced.names, [], None, synced.clock),
        lambda synced: wire.Synced(
            "m", b"i" * 16, synced.names, synced.schema, None, wire.ClockData(0, 0, [0] * 5, 1)
        ),
        lambda synced: wire.Synced(
            "m", b"i" * 16, synced.names, synced.schema, None, wire.ClockData(0, 0, [0] * 4, 0)
        ),
    ],
)
def test_a_client_refuses_a_source_that_contradicts_itself(
    wrong: Callable[[wire.Synced], wire.Synced],
) -> None:
    pair = Pair()

    def meddle(data: bytes) -> bytes:
        changed = b""
        for frame in frames(data):
            found = wire.from_frame(frame[4:])
            changed += wire.to_frame(wrong(found)) if type(found) is wire.Synced else frame
        return changed

    pair.meddle = meddle
    assert isinstance(failed(pair), ProtocolError)
