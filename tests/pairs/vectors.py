"""Writes `vectors.json`: bytes of known content and their meaning, for any implementation.

    python -m tests.pairs.vectors

The messages are written out here once more, with what they mean. Proofs, keys, hashes and
checksums are computed by hand, so that the file holds what the protocol says and not what the
code does; `test_vectors.py` compares both.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from amnode.rpc.protocol import wire
from amnode.rpc.protocol.wire import NIL, Outcome, Role

FILE = Path(__file__).with_name("vectors.json")
SECRET = b"a secret that both sides know"
N1, N2, N3, N4 = (bytes(range(at, at + 32)) for at in (0, 32, 64, 96))

Json: TypeAlias = "dict[str, Any]"

ABOUT = (
    "Bytes of known content. frames: whole frames, length included, with what a plain msgpack "
    "reader makes of them ({bytes: hex} is binary, {ext: [type, hex]} an extension). refused: "
    "frames that end the connection with a Failure. handshakes: what both sides said, and what "
    "follows from it. checksums, schema_hashes: see docs/reference/wire-format.md."
)

# -- computed by hand --------------------------------------------------------------------


def field(data: bytes) -> bytes:
    return len(data).to_bytes(2, "little") + data


def checksum(ticks: dict[int, int], queue_tick: int, machine_tick: int = 0) -> int:
    mixed = (tick * (((i + 1) * 2654435761 % 2**32) | 1) for i, tick in ticks.items())
    return (sum(mixed) + queue_tick + machine_tick) % 2**32


def digest(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, "sha256").digest()


def handshake(
    meaning: str,
    *,
    key: bytes = SECRET,
    role: str = "controller",
    client_id: str = "rc-me",
    server_id: str = "rs-door",
    nonces: tuple[bytes, bytes] = (N1, N2),
    session: bytes = b"",
    resumed: bool = False,
    keepalives: tuple[int, int] = (0, 0),
) -> Json:
    """All that follows from what was said; with `resumed`, the key is that of the session."""
    said = (
        str(wire.VERSION).encode(),
        role.encode(),
        client_id.encode(),
        server_id.encode(),
        *nonces,
        session,
        b"resumed" if resumed else b"",
        *(str(keepalive).encode() for keepalive in keepalives),
    )
    transcript = b"".join(map(field, said))
    session_key = key if resumed else digest(key, b"amnode-rpc session key" + transcript)
    return {
        "meaning": meaning,
        "key": key.hex(),
        "version": wire.VERSION,
        "role": role,
        "client_id": client_id,
        "server_id": server_id,
        "client_nonce": nonces[0].hex(),
        "server_nonce": nonces[1].hex(),
        "session": session.hex(),
        "resumed": resumed,
        "client_keepalive": keepalives[0],
        "server_keepalive": keepalives[1],
        "transcript": transcript.hex(),
        "client_proof": digest(key, b"amnode-rpc client proof" + transcript).hex(),
        "server_proof": digest(key, b"amnode-rpc server proof" + transcript).hex(),
        "session_key": session_key.hex(),
        "session_id": digest(session_key, b"amnode-rpc session id")[:16].hex(),
    }


FIRST = handshake("A new session.")
KEY, SESSION = bytes.fromhex(FIRST["session_key"]), bytes.fromhex(FIRST["session_id"])
RESUMED = handshake(
    "The same session on its next connection: its key proves, and stays.",
    key=KEY,
    nonces=(N3, N4),
    session=SESSION,
    resumed=True,
)
HANDSHAKES: list[Json] = [
    FIRST,
    RESUMED,
    handshake(
        "The session is gone: the secret proves, and a new session begins.",
        nonces=(N3, N4),
        session=SESSION,
    ),
    handshake(
        "An observer, whose id is not ASCII; keep-alives of 10 s and none.",
        role="observer",
        client_id="rc-tür",
        keepalives=(10_000, 0),
    ),
]

# -- frames ------------------------------------------------------------------------------

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
CLOCK = wire.ClockData(0, 5, [1, 3, 0], checksum({0: 1, 1: 3, 2: 0}, 5))
SOME = wire.ClockData(2, 5, [1, 0], checksum({0: 1, 2: 0}, 5, 2))
DIFFERENCE = wire.Difference([1, 1], 1, checksum({0: 1, 1: 4, 2: 0}, 6))
NOTHING_MOVED = wire.Difference([], 1, checksum({0: 1, 1: 4, 2: 0}, 7))
BODY = b"\xc4\x05hello"


def proof(of: Json, whose: str) -> bytes:
    return bytes.fromhex(of[f"{whose}_proof"])


FRAMES: list[tuple[str, wire.Message]] = [
    (
        "Hello of rc-me as a controller; nonce 00..1f, no session, no keep-alive",
        wire.Hello(wire.VERSION, "rc-me", Role.CONTROLLER, N1, b"", 0),
    ),
    (
        "Challenge of rs-door; nonce 20..3f, a new session",
        wire.Challenge(wire.VERSION, "rs-door", N2, False, 0),
    ),
    ("Proof of the client over the two above", wire.Proof(proof(FIRST, "client"))),
    ("Welcome: the proof of the server over the same", wire.Welcome(proof(FIRST, "server"))),
    (
        "Hello of rc-me, which resumes that session; keep-alive 10 s",
        wire.Hello(wire.VERSION, "rc-me", Role.CONTROLLER, N3, SESSION, 10_000),
    ),
    (
        "Challenge of rs-door, which has the session",
        wire.Challenge(wire.VERSION, "rs-door", N4, True, 10_000),
    ),
    (
        "Hello of an observer",
        wire.Hello(wire.VERSION, "rc-tür", Role.OBSERVER, N1, b"", 0),
    ),
    ("Subscribe to all states, without a schema", wire.Subscribe(b"", None, 0, 0)),
    (
        "Subscribe to Open alone, with the hash of the schema of the next vector but one",
        wire.Subscribe(HASH, ["Open"], 0, 0),
    ),
    (
        "Subscribe to all but Unlocked: shallow, every mutation, an update each 250 ms at most",
        wire.Subscribe(b"", ["Unlocked"], 7, 250),
    ),
    (
        "Synced with door: Open (multi, requires Unlocked, tag ui), Unlocked (auto), Exception "
        "(multi); ticks 1, 3, 0, queue tick 5",
        wire.Synced("door", b"i" * 16, NAMES, SCHEMA, None, CLOCK),
    ),
    (
        "The same to a client that has the schema",
        wire.Synced("door", b"i" * 16, NAMES, None, None, CLOCK),
    ),
    (
        "The same, of states 0 and 2 alone; machine tick 2",
        wire.Synced("door", b"i" * 16, NAMES, None, [0, 2], SOME),
    ),
    (
        "Failure: a RefusedError, 'no'",
        wire.Failure(wire.WireError("RefusedError", "no", {})),
    ),
    ("Goodbye: 'bye'", wire.Goodbye("bye")),
    ("Alive", wire.Alive()),
    ("Mutate 1: add state 1, without arguments", wire.Mutate(1, 0, [1], NIL)),
    (
        "Mutate 2: remove states 0 and 1, with the arguments {n: 7}",
        wire.Mutate(2, 1, [0, 1], msgspec.Raw(b"\x81\xa1n\x07")),
    ),
    (
        "Mutate 3: set state 0, with body 1 as its arguments",
        wire.Mutate(3, 2, [0], wire.body_reference(1)),
    ),
    ("Mutate 300: may state 0 be added?", wire.Mutate(300, 4, [0], NIL)),
    (
        "Mutate 70000: when the arguments of state 0 match {n: 7}",
        wire.Mutate(70_000, 6, [0], msgspec.Raw(b"\x81\xa1n\x07")),
    ),
    (
        "Answer to 1: executed; state 1 moved by 1, the queue by 1 (after the snapshot above)",
        wire.Answer(1, Outcome.EXECUTED, DIFFERENCE, NIL),
    ),
    (
        "Answer to 2: executed, with the value 42; nothing moved",
        wire.Answer(2, Outcome.EXECUTED, None, msgspec.Raw(b"\x2a")),
    ),
    ("Answer to 3: canceled", wire.Answer(3, Outcome.CANCELED, None, NIL)),
    (
        "Answer to 4: an error, RefusedError 'closed'",
        wire.Answer(4, Outcome.ERROR, None, wire.to_raw(["RefusedError", "closed", {}])),
    ),
    (
        "Answer to 5: the server does not remember whether it ran",
        wire.Answer(5, Outcome.UNKNOWN, None, NIL),
    ),
    (
        "Answer to 6: executed, with body 258 as its value",
        wire.Answer(6, Outcome.EXECUTED, None, wire.body_reference(258)),
    ),
    ("Cancel of 4", wire.Cancel(4)),
    ("Update: the difference of the answer to 1", wire.Update(DIFFERENCE)),
    ("Update: only the queue moved, by 1, after that", wire.Update(NOTHING_MOVED)),
    ("Resync", wire.Resync()),
    ("Snapshot: ticks 1, 3, 0, queue tick 5", wire.Snapshot(CLOCK)),
    ("Payload 1, 'news': [1, 'x']", wire.Payload(1, "news", wire.to_raw([1, "x"]))),
    ("Step: the difference above, an add that called state 1", wire.Step(DIFFERENCE, 0, [1])),
    ("Ack of all answers up to 5 and all payloads up to 1", wire.Ack(5, 1)),
    ("Body 1 has 7 bytes", wire.Body(1, 7)),
    ("Chunk: the first 4 bytes of body 1", wire.Chunk(1, BODY[:4])),
    (
        "Chunk: the rest of it; together they are the msgpack of 'hello'",
        wire.Chunk(1, BODY[4:]),
    ),
    ("Drop of body 2", wire.Drop(2)),
    ("Credit of 7 bytes", wire.Credit(7)),
    (
        "Item 1 of the stream of mutation 7: {n: 1}",
        wire.Item(7, 1, msgspec.Raw(b"\x81\xa1n\x01")),
    ),
    ("Allow for 7: 1 item has come, 65536 bytes are allowed", wire.Allow(7, 1, 65536)),
    ("End of the stream of 7, well", wire.End(7, None)),
    (
        "End of the stream of 8: its iterator raised",
        wire.End(8, wire.WireError("JobFailed", "no", {"error_type": "KeyError"})),
    ),
    ("Stop: nobody reads the stream of 7 any more", wire.Stop(7)),
]

# -- frames that no side may take --------------------------------------------------------

REFUSED: list[tuple[str, bytes]] = [
    ("a frame of no bytes", b""),
    ("nil in place of a message", b"\xc0"),
    ("a map", b"\x80"),
    ("an array without a tag", b"\x90"),
    ("a tag that is free", b"\x91\x0a"),
    ("a tag after the last", b"\x91\x21"),
    ("tag 0", b"\x91\x00"),
    ("a tag that is a text", b"\x91\xa1a"),
    ("Resync with a surplus field", b"\x92\x14\x01"),
    ("Cancel without its number", b"\x91\x12"),
    ("Cancel of number 0", b"\x92\x12\x00"),
    ("Cancel of a negative number", b"\x92\x12\xff"),
    ("Cancel of NaN", b"\x92\x12\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00"),
    ("Cancel of 2^63", b"\x92\x12\xcf\x80\x00\x00\x00\x00\x00\x00\x00"),
    ("Goodbye with bad UTF-8", b"\x92\x08\xa2\xff\xfe"),
    ("Goodbye with a text that is not there", b"\x92\x08\xdb\xff\xff\xff\xff"),
    ("Mutate of an unknown type", b"\x95\x10\x01\x07\x91\x00\xc0"),
    ("Mutate of index 16384", b"\x95\x10\x01\x00\x91\xcd\x40\x00\xc0"),
    ("Mutate of four billion states", b"\x95\x10\x01\x00\xdd\xff\xff\xff\xff\xc0"),
    ("Mutate whose arguments are no msgpack", b"\x95\x10\x01\x00\x91\x00\xc1"),
    ("bytes after the message", b"\x91\x14\x00"),
    (
        "Hello with a nonce of 31 bytes",
        b"\x97\x01\x02\xa1c\xa8observer\xc4\x1f" + b"n" * 31 + b"\xc4\x00\x00",
    ),
    (
        "Hello with an empty id",
        b"\x97\x01\x02\xa0\xa8observer\xc4\x20" + b"n" * 32 + b"\xc4\x00\x00",
    ),
    (
        "Hello with a line feed in its id",
        b"\x97\x01\x02\xa1\n\xa8observer\xc4\x20" + b"n" * 32 + b"\xc4\x00\x00",
    ),
    (
        "Hello with an unknown role",
        b"\x97\x01\x02\xa1c\xa5owner\xc4\x20" + b"n" * 32 + b"\xc4\x00\x00",
    ),
    ("Answer with an unknown outcome", b"\x95\x11\x01\x04\xc0\xc0"),
    (
        "Update with a checksum of 33 bits",
        b"\x92\x13\x93\x90\x00\xcf\x00\x00\x00\x01\x00\x00\x00\x00",
    ),
    ("Body 0", b"\x93\x19\x00\x01"),
    ("Body without a byte", b"\x93\x19\x01\x00"),
    ("Credit of nothing", b"\x92\x1c\x00"),
    ("Subscribe with an unknown flag", b"\x95\x05\xc4\x00\xc0\x08\x00"),
]

# -- whole documents ---------------------------------------------------------------------


def plain(value: object) -> Any:
    """What a plain msgpack reader makes of a value, as JSON."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, msgspec.msgpack.Ext):
        return {"ext": [value.code, bytes(value.data).hex()]}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def fields(message: object) -> Any:
    """A message or a part of one, field by field; raw values decoded."""
    if isinstance(message, msgspec.Raw):
        return plain(msgspec.msgpack.decode(message))
    if isinstance(message, msgspec.Struct):
        return [fields(getattr(message, name)) for name in message.__struct_fields__]
    if isinstance(message, list):
        return [fields(item) for item in message]
    return plain(message)


def framed(body: bytes) -> str:
    return (len(body).to_bytes(4, "little") + body).hex()


def document() -> Json:
    """All that the file holds."""
    return {
        "about": ABOUT,
        "version": wire.VERSION,
        "secret": SECRET.hex(),
        "frames": [
            {
                "meaning": meaning,
                "message": type(message).__name__,
                "fields": fields(message),
                "hex": wire.to_frame(message).hex(),
            }
            for meaning, message in FRAMES
        ],
        "refused": [{"meaning": meaning, "hex": framed(body)} for meaning, body in REFUSED],
        "handshakes": HANDSHAKES,
        "checksums": [
            {
                "ticks": {str(index): tick for index, tick in ticks.items()},
                "queue_tick": queue_tick,
                "machine_tick": machine_tick,
                "checksum": checksum(ticks, queue_tick, machine_tick),
            }
            for ticks, queue_tick, machine_tick in (
                ({}, 0, 0),
                ({0: 1}, 0, 0),
                ({1: 1}, 0, 0),
                ({0: 1, 1: 3, 2: 0}, 5, 0),
                ({0: 1, 2: 0}, 5, 2),
                ({16383: 2**40 + 1}, 2**33, 1),
            )
        ],
        "schema_hashes": [
            {
                "rows": ROWS,
                "msgpack": msgspec.msgpack.encode(ROWS).hex(),
                "sha256": HASH.hex(),
            }
        ],
    }


def text() -> str:
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
