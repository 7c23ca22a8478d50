"""`vectors.json` is what the protocol says, and the code does as it says (see `vectors.py`)."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from amnode.errors import ProtocolError
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.auth import Prover, Ticket, Transcript, prove, ticket
from amnode.rpc.protocol.session import Closed
from amnode.rpc.protocol.subscription import schema_from_wire, schema_hash
from amnode.rpc.protocol.sync import Follower
from amnode.rpc.protocol.wire import ClockData, Role
from tests.pairs.session_pair import Pair, deliver, sent_by
from tests.pairs.vectors import FILE, FRAMES, SCHEMA, Json, plain, text

VECTORS: Json = json.loads(FILE.read_text(encoding="utf-8"))


def ids(vector: Json) -> str:
    return vector["meaning"]


def test_the_file_is_current() -> None:
    assert FILE.read_text(encoding="utf-8") == text(), "run `python -m tests.pairs.vectors`"


def test_every_message_has_a_vector() -> None:
    named = {vector["message"] for vector in VECTORS["frames"]}
    assert named == {kind.__name__ for kind in wire.Message.__subclasses__()}


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=ids)
def test_a_plain_reader_of_msgpack_finds_what_the_vector_says(vector: Json) -> None:
    frame = bytes.fromhex(vector["hex"])
    tag = getattr(wire, vector["message"]).__struct_config__.tag
    assert int.from_bytes(frame[:4], "little") == len(frame) - 4
    assert plain(msgspec.msgpack.decode(frame[4:])) == [tag, *vector["fields"]]


@pytest.mark.parametrize("at", range(len(FRAMES)), ids=lambda at: FRAMES[at][0])
def test_a_vector_means_its_message_and_the_message_is_written_so(at: int) -> None:
    frame, (_, message) = bytes.fromhex(VECTORS["frames"][at]["hex"]), FRAMES[at]
    assert wire.to_frame(message) == frame
    assert wire.from_frame(frame[4:]) == message


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=ids)
def test_a_vector_that_is_cut_at_any_byte_is_no_message(vector: Json) -> None:
    frame = bytes.fromhex(vector["hex"])
    for cut in range(4, len(frame)):
        with pytest.raises(ProtocolError):
            wire.from_frame(frame[4:cut])


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=ids)
def test_what_is_refused_ends_the_connection_with_a_failure(vector: Json) -> None:
    frame = bytes.fromhex(vector["hex"])
    pair = Pair().opened()
    for session in (pair.client, pair.server, Pair().server):
        (closed,) = deliver(session, frame)
        assert isinstance(closed, Closed) and not closed.by_peer
        assert type(closed.error) is ProtocolError
        assert isinstance(wire.from_frame(sent_by(session)[4:]), wire.Failure)


@pytest.mark.parametrize("vector", VECTORS["handshakes"], ids=ids)
def test_proofs_keys_and_ids_are_as_in_the_vectors(vector: Json) -> None:
    def data(name: str) -> bytes:
        return bytes.fromhex(vector[name])

    said = Transcript(
        vector["version"],
        Role(vector["role"]),
        vector["client_id"],
        vector["server_id"],
        data("client_nonce"),
        data("server_nonce"),
        data("session"),
        vector["resumed"],
        (vector["client_keepalive"], vector["server_keepalive"]),
    )
    assert said.to_bytes() == data("transcript")
    assert prove(Prover.CLIENT, data("key"), said) == data("client_proof")
    assert prove(Prover.SERVER, data("key"), said) == data("server_proof")
    if vector["resumed"]:
        assert data("session") == data("session_id") and data("key") == data("session_key")
    else:
        made = Ticket(data("session_id"), data("session_key"))
        assert ticket(data("key"), said) == made


@pytest.mark.parametrize("at", range(len(VECTORS["checksums"])))
def test_checksums_are_as_in_the_vectors(at: int) -> None:
    vector: dict[str, Any] = VECTORS["checksums"][at]
    ticks = {int(index): tick for index, tick in vector["ticks"].items()}
    follower = Follower(wire.MAX_STATES, tuple(ticks))
    for by in (0, 1):
        checksum = (vector["checksum"] + by) % 2**32
        clock = ClockData(
            vector["machine_tick"], vector["queue_tick"], [*ticks.values()], checksum
        )
        if by:
            with pytest.raises(ProtocolError, match="checksum"):
                follower.load(clock)
        else:
            follower.load(clock)


def test_the_hash_of_a_schema_is_as_in_the_vectors() -> None:
    (vector,) = VECTORS["schema_hashes"]
    assert schema_hash(schema_from_wire(SCHEMA)).hex() == vector["sha256"]
    assert msgspec.msgpack.decode(bytes.fromhex(vector["msgpack"])) == vector["rows"]
