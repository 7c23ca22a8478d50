"""Frames of known content, `vectors.json`: hex and meaning, for any implementation.

The messages are written out here once more, so that the file is compared with what they mean
and not with what this code once wrote. Proofs, hash and checksums are computed by hand.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from amnode.rpc.protocol import wire
from amnode.rpc.protocol.wire import NIL, Outcome, Role

VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text())["frames"]

N1, N2 = bytes(range(32)), bytes(range(32, 64))


def field(data: bytes) -> bytes:
    return len(data).to_bytes(2, "little") + data


def proof(prover: bytes) -> bytes:
    said = (b"1", b"controller", b"rc-me", b"rs-door", N1, N2)
    message = prover + b"".join(map(field, said))
    return hmac.new(b"a secret that both sides know", message, "sha256").digest()


def checksum(ticks: list[int], queue_tick: int) -> int:
    mixed = (tick * (((i + 1) * 2654435761 % 2**32) | 1) for i, tick in enumerate(ticks))
    return (sum(mixed) + queue_tick) % 2**32


ROWS: list[Any] = [
    ["Open", False, True, ["Unlocked"], [], [], []],
    ["Unlocked", True, False, [], [], [], []],
    ["Exception", False, True, [], [], [], []],
]
HASH = hashlib.sha256(msgspec.msgpack.encode(ROWS)).digest()
NAMES = ["Open", "Unlocked", "Exception"]
SCHEMA = [
    wire.SchemaState("Open", 2, ["Unlocked"], [], [], [], ["ui"]),
    wire.SchemaState("Unlocked", 1, [], [], [], [], []),
    wire.SchemaState("Exception", 2, [], [], [], [], []),
]
CLOCK = wire.ClockData(0, 5, [1, 3, 0], checksum([1, 3, 0], 5))
DIFFERENCE = wire.Difference([1, 1], 1, checksum([1, 4, 0], 6))

MESSAGES: list[wire.Message] = [
    wire.Hello(wire.VERSION, "rc-me", Role.CONTROLLER, N1, b"", 0),
    wire.Challenge(wire.VERSION, "rs-door", N2, False, 0),
    wire.Proof(proof(b"amnode-rpc client proof")),
    wire.Welcome(proof(b"amnode-rpc server proof")),
    wire.Subscribe(b"", None, 0, 0),
    wire.Subscribe(HASH, ["Open"], 0, 0),
    wire.Synced("door", NAMES, SCHEMA, None, CLOCK),
    wire.Synced("door", NAMES, None, None, CLOCK),
    wire.Failure(wire.WireError("RefusedError", "no", {})),
    wire.Goodbye("bye"),
    wire.Mutate(1, 0, [1], NIL),
    wire.Mutate(2, 1, [0, 1], msgspec.Raw(b"\x81\xa1n\x07")),
    wire.Answer(1, Outcome.EXECUTED, DIFFERENCE, NIL),
    wire.Answer(2, Outcome.EXECUTED, None, msgspec.Raw(b"\x2a")),
    wire.Answer(3, Outcome.CANCELED, None, NIL),
    wire.Answer(4, Outcome.ERROR, None, wire.to_raw(["RefusedError", "closed", {}])),
    wire.Cancel(4),
    wire.Update(DIFFERENCE),
    wire.Resync(),
    wire.Snapshot(CLOCK),
    wire.Payload(1, "news", wire.to_raw([1, "x"])),
]


def test_every_vector_has_its_message() -> None:
    assert len(VECTORS) == len(MESSAGES)
    kinds = {type(message) for message in MESSAGES}
    assert kinds == set(wire.Message.__subclasses__())


@pytest.mark.parametrize("at", range(len(MESSAGES)), ids=lambda at: VECTORS[at]["meaning"])
def test_a_vector_means_its_message_and_the_message_is_written_so(at: int) -> None:
    frame = bytes.fromhex(VECTORS[at]["hex"])
    assert wire.to_frame(MESSAGES[at]) == frame
    assert int.from_bytes(frame[:4], "little") == len(frame) - 4
    assert wire.from_frame(frame[4:]) == MESSAGES[at]


@pytest.mark.parametrize("at", range(len(MESSAGES)), ids=lambda at: VECTORS[at]["meaning"])
def test_a_vector_that_is_cut_at_any_byte_is_no_message(at: int) -> None:
    frame = bytes.fromhex(VECTORS[at]["hex"])
    for cut in range(4, len(frame)):
        with pytest.raises(wire.ProtocolError):
            wire.from_frame(frame[4:cut])
