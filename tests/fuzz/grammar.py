"""What a hostile peer sends: cases from a seed.

- *grammar*: messages of the table in `wire.py`, a field of some replaced by an odd value.
- *mutated*: frames of `vectors.json` and of the grammar, with bits, bytes and slices changed.
- *noise*: random bytes behind a length that is right, or not.
- *truncated*: a valid exchange that ends at each byte, or goes on with another message there.
- *split*: a valid exchange that arrives in pieces, cut at each byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from amnode.rpc.protocol import wire
from amnode.rpc.protocol.wire import Role
from tests.fuzz.rooms import HANDSHAKES, NONCE, OPEN, SCHEMA, Case

_VECTORS: Final = Path(__file__).parents[1] / "pairs" / "vectors.json"
_encode = msgspec.msgpack.Encoder().encode

#: Values that no field expects, or that some field must not have.
ODD: Final[list[Any]] = [
    None, True, False, -1, 0, 1, 2, 5, 127, 128, 1 << 14, 1 << 31, (1 << 32) - 1, 1 << 32,
    (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63), 1.5, float("nan"), float("-inf"),
    "", "\x00", "\x1b[31m\n", "é" * 100, "x" * 201, "x" * 5000, "os.system", "controller",
    b"", b"x", b"x" * 31, b"x" * 32, b"x" * 33, b"x" * 70_000,
    [], [[]], [0], [-1], [None], [1 << 14], [0, 0], ["Lit"], list(range(300)),
    {}, {"a": 1}, {1: 2}, {"n": 1}, {"n": "1", "text": 2}, {"name": "x", "message": "y"},
    ["RpcError", "x", {}], ["LaunchError", "x", {"outcome": "y"}],
    ["ConnectionLost", "x", {"outcome": "\x00"}], ["JobFailed", "x", {"error_type": "E"}],
    [[0, 1], 1, 0], [[0], 0, 0], [[1 << 40, 1], 1, 0], [0, 0, [0] * 6, 0],
    msgspec.msgpack.Ext(1, b"\x01\x00\x00\x00"), msgspec.msgpack.Ext(1, b"\xff\xff\xff\xff"),
    msgspec.msgpack.Ext(1, b""), msgspec.msgpack.Ext(-1, b"\x00" * 4),
    msgspec.msgpack.Ext(-1, b"\xff" * 12), msgspec.msgpack.Ext(5, b"x" * 300),
    *map(
        msgspec.Raw,
        (
            b"\xa2\xff\xfe", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\x82\xa1n\x01\xa1n\x02",
            b"\x91" * 400 + b"\xc0", b"\x91" * 20_000 + b"\xc0", b"\x81\xc0" * 5_000 + b"\xc0",
            b"\xdc\xff\xff" + b"\x00" * 65_535, b"\x94\x94",
        ),
    ),
]  # fmt: skip
#: Huge values, which are seldom sent since each takes milliseconds.
HUGE: Final = [
    msgspec.Raw(b"\x91" * 1_000_000 + b"\xc0"),
    msgspec.Raw(b"\xdd\x00\x0f\x42\x40" + b"\x00" * 1_000_000),
    msgspec.Raw(b"\x81\xc0" * 1_000_000 + b"\xc0"),
    b"x" * 3_000_000,
    [0] * 60_000,
]
_ERRORS: Final = [
    "RpcError", "ConnectionLost", "JobFailed", "WorkerError", "LeaseLost", "DeliveryError",
    "OSError", "builtins.eval", "", "AmnodeError", "WorkerKillError", "LaunchError",
]  # fmt: skip
_DETAIL: Final = [{}, {"outcome": "unknown"}, {"cause": "x"}, {"a": "b"}, {"error_type": "E"}]

Maker = Callable[["Grammar"], list[Any]]


class Grammar:
    """Messages and cases.

    Args:
        dice: where all choices come from.
    """

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.random = dice.random
        self.seq = 0
        self.number = 0
        self.last_body = 0
        self._vectors = _vectors()
        self._walks = {room: self._walk(room) for room in ("server", "client")}

    # -- fields ----------------------------------------------------------------------------

    def whole(self, most: int) -> int:
        return int(self.random() * most)

    def pick(self, values: Any) -> Any:
        return values[int(self.random() * len(values))]

    def next_seq(self) -> int:
        if self.random() < 0.75:
            self.seq += 1
        return self.whole(self.seq) + 1 if self.random() < 0.1 else self.seq or 1

    def value(self) -> Any:
        chance = self.random()
        if chance < 0.5:
            return None
        if chance < 0.7:
            return {"n": self.whole(9)}
        if chance < 0.8:
            return msgspec.msgpack.Ext(1, self.whole(4).to_bytes(4, "little"))
        return self.pick(ODD)

    def error(self) -> list[Any]:
        return [self.pick(_ERRORS), "why", self.pick(_DETAIL)]

    def _pairs(self) -> list[int]:
        return [self.whole(n) for _ in range(self.whole(3)) for n in (6, 4)]

    def difference(self) -> list[Any]:
        return [self._pairs(), self.whole(3), self.whole(1 << 32)]

    def clock(self) -> list[Any]:
        ticks = [self.whole(3) for _ in SCHEMA]
        checksum = self.whole(1 << 32)
        return [0, 1, [0] * len(SCHEMA), 1] if self.random() < 0.5 else [0, 1, ticks, checksum]

    def next_number(self) -> int:
        self.number += self.random() < 0.8
        return self.number or 1

    def next_body(self) -> int:
        self.last_body += 1
        return self.last_body

    # -- messages --------------------------------------------------------------------------

    def fresh(self) -> None:
        """Another peer, whose numbers start anew."""
        self.seq = self.number = self.last_body = 0

    def body(self, tags: tuple[int, ...]) -> bytes:
        """A message with one of the tags, most often a right one."""
        tag = self.pick(tags)
        fields = _MESSAGES[tag](self)
        chance = self.random()
        if chance < 0.2:
            if fields and chance < 0.17:
                fields[self.whole(len(fields))] = self.pick(ODD)
            elif chance < 0.18:
                fields.append(self.pick(ODD))
            elif chance < 0.19:
                del fields[-1:]
            elif chance < 0.1905 and fields:
                fields[self.whole(len(fields))] = self.pick(HUGE)
            else:
                tag = self.pick(ODD)
        return _encode([tag, *fields])

    def _messages(self, room: str, depth: int) -> list[bytes]:
        tags = _TAGS[room, depth]
        every = 0.04 if depth == OPEN else 0.3
        return [
            framed(self.body(_ALL if self.random() < every else tags))
            for _ in range(1 + self.whole(12 if depth == OPEN else 2))
        ]

    def _mutated(self, room: str, depth: int) -> list[bytes]:
        frames = [self.pick(self._vectors)] if self.random() < 0.5 else []
        frames += self._messages(room, depth)[:4]
        at = self.whole(len(frames))
        frames[at] = self._mutate(frames[at])
        return frames

    def _mutate(self, frame: bytes) -> bytes:
        data = bytearray(frame[4:])
        for _ in range(1 + self.whole(3)):
            at, chance = self.whole(len(data) + 1), self.random()
            if chance < 0.4 and at < len(data):
                data[at] ^= 1 << self.whole(8)
            elif chance < 0.6 and at < len(data):
                data[at] = self.whole(256)
            elif chance < 0.7:
                data[at:at] = self.dice.randbytes(self.whole(5))
            elif chance < 0.8:
                del data[at : at + 1 + self.whole(4)]
            elif chance < 0.9:
                data[at:at] = data[self.whole(at + 1) : at][:64]
            else:
                data[at:] = self.pick(self._vectors)[4 + self.whole(20) :]
        if self.random() < 0.1:
            return frame[:4] + bytes(data)
        return framed(bytes(data))

    def _noise(self) -> list[bytes]:
        data = self.dice.randbytes(1 + self.whole(60))
        chance = self.random()
        if chance < 0.6:
            return [framed(data)]
        if chance < 0.8:  # an array of a known tag, and rubbish
            return [framed(bytes([0x90 + self.whole(8), self.whole(34)]) + data)]
        if chance < 0.9:
            return [
                self.pick((0, 1, 4096, 4097, 1 << 22, (1 << 22) + 1, (1 << 32) - 1)).to_bytes(
                    4, "little"
                )
                + data
            ]
        return [data]

    # -- cases -----------------------------------------------------------------------------

    def case(self, room: str) -> tuple[Case, int]:
        """One case, and how many frames it counts for."""
        self.fresh()
        side = "client" if room == "client" else "server"
        depth = self.pick((0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 3, 3))
        role = Role.OBSERVER if self.random() < 0.3 else Role.CONTROLLER
        chance = self.random()
        if chance < 0.5:
            frames = self._messages(side, depth)
        elif chance < 0.7:
            frames = self._mutated(side, depth)
        elif chance < 0.8:
            frames = self._noise()
        else:
            return next(self._walks[side])(room, role, depth, chance < 0.9), 1
        return Case(room, depth, role, frames), len(frames)

    def _walk(self, room: str) -> Iterator[Callable[[str, Role, int, bool], Case]]:
        """Each byte of valid exchanges, again and again: cut there, or split there."""
        at = 0
        while True:
            at += 1

            def make(name: str, role: Role, depth: int, cut: bool, at: int = at) -> Case:
                handshake = HANDSHAKES[role]
                steps = handshake.down if room == "client" else handshake.up
                if depth == OPEN:
                    frames = self._messages(room, depth)
                    frames[0] = self.pick(self._vectors)
                else:
                    frames = steps[depth : depth + 1]
                whole = b"".join(frames)
                here = at % (len(whole) + 1)
                if not cut:
                    if self.random() < 0.2 and len(whole) < 400:
                        return Case(name, depth, role, [bytes([byte]) for byte in whole])
                    return Case(name, depth, role, [whole[:here], whole[here:]])
                after = self._messages(room, depth)[:1] if self.random() < 0.5 else []
                return Case(name, depth, role, [whole[:here], *after])

            yield make


def framed(body: bytes) -> bytes:
    """A body with its length in front."""
    return len(body).to_bytes(4, "little") + body


def _vectors() -> list[bytes]:
    known = json.loads(_VECTORS.read_text())
    return [bytes.fromhex(entry["hex"]) for entry in (*known["frames"], *known["refused"])]


_MESSAGES: Final[dict[int, Maker]] = {
    1: lambda g: [wire.VERSION, "rc-me", "controller", NONCE, g.pick((b"", b"s" * 16)), 0],
    2: lambda g: [wire.VERSION, "rs-hall", NONCE, g.random() < 0.2, 0],
    3: lambda g: [g.dice.randbytes(32)],
    4: lambda g: [g.dice.randbytes(32)],
    5: lambda g: [b"", g.pick((None, ["Lit"], ["Nope"], [])), g.whole(8), g.whole(3)],
    6: lambda g: ["hall", list(SCHEMA.names), None, g.pick((None, [0, 1])), g.clock()],
    7: lambda g: [g.error()],
    8: lambda g: ["bye"],
    9: lambda g: [],
    16: lambda g: [g.next_seq(), g.whole(7), [g.whole(6)] * (1 + g.whole(2)), g.value()],
    17: lambda g: [1 + g.whole(4), g.whole(4), g.pick((None, g.difference())), g.value()],
    18: lambda g: [g.next_seq()],
    19: lambda g: [g.difference()],
    20: lambda g: [],
    21: lambda g: [g.clock()],
    22: lambda g: [g.next_number(), "name", g.value()],
    23: lambda g: [g.difference(), g.whole(4), [g.whole(6)]],
    24: lambda g: [g.whole(8), g.whole(3)],
    25: lambda g: [g.next_body(), g.pick((1, 10, 40_000, 1 << 20, 1 << 30, 1 << 31))],
    26: lambda g: [g.last_body or 1, b"c" * g.pick((1, 5, 10, 40_000))],
    27: lambda g: [g.last_body or 1],
    28: lambda g: [g.pick((1, 1, 1000, 1 << 40))],
    29: lambda g: [g.pick((2, 3, g.seq or 1)), g.next_number(), g.value()],
    30: lambda g: [g.pick((2, 3, g.seq + 1)), g.whole(3), g.whole(3000)],
    31: lambda g: [g.seq or 1, g.pick((None, g.error()))],
    32: lambda g: [g.pick((3, 1))],
}  # fmt: skip
_ALL: Final = tuple(_MESSAGES)
_BOTH: Final = (9, 25, 26, 27, 28, 29, 30)
_TAGS: Final[dict[tuple[str, int], tuple[int, ...]]] = {
    ("server", 0): (1,),
    ("server", 1): (3,),
    ("server", 2): (5,),
    ("server", 3): (16, 16, 16, 16, 16, 16, 18, 20, 24, 31, *_BOTH),
    ("client", 0): (2,),
    ("client", 1): (4,),
    ("client", 2): (6,),
    ("client", 3): (17, 17, 19, 19, 21, 22, 22, 23, 32, *_BOTH),
}
