"""One exchange of everything that crosses, cut wherever it is told to be.

    python -m tests.pairs.cuts [--cuts 120000] [--jobs 2] [--seed 1]

Without a test runner it cuts the connection at every byte both ways, for each time at which
deferred answers may come due, and then at two random places each until it has made enough cuts.
What it checks stands in `Exchange.check`.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from enum import Enum
from functools import cache
from typing import Any, TypeAlias

import msgspec

from amnode.errors import JobFailed
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.session import (
    Admitted,
    Advanced,
    Answered,
    Called,
    Cancelled,
    Closed,
    Delivered,
    Event,
    Opened,
    Phase,
    Streamed,
    StreamEnded,
)
from amnode.rpc.protocol.wire import NIL, Outcome
from tests.pairs.session_pair import Pair, sent_by

OPTIONS = RpcOptions(frame_limit=4096, chunk_size=1024, credit=1024, stream_credit=48)
#: Larger than a chunk, so that it goes as a body of two.
LARGE = bytes(range(256)) * 5
ITEMS: list[object] = [1, "two", LARGE, 4, "five"]
PAYLOADS: list[tuple[str, object]] = [("a", 1), ("large", LARGE), ("b", 2), ("c", None)]
#: What the client asks for, turn by turn: which state, and what is to come of it.
STEPS: list[tuple[int, list[str]]] = [
    (0, ["a", "b"]),
    (2, ["large", "later"]),
    (3, ["later", "down"]),
    (1, ["up", "later"]),
    (0, ["large back", "z"]),
]
#: After which step which mutation is taken back: one at once, one that may have run.
CANCELS = {3: 5, 4: 4}

#: How many bytes may cross, up and down, before a connection is cut; None for any number.
Cut: TypeAlias = "tuple[int | None, int | None]"


class Due(Enum):
    """When deferred answers come due."""

    BEFORE = "as soon as they can"
    WHILE = "while the client is cut off"
    AFTER = "once it is back"


class Exchange:
    """The programs at both ends, and what they see.

    Args:
        cuts: of the first connections; later ones are not cut.
        due: see `Due`.
    """

    def __init__(self, cuts: list[Cut], due: Due) -> None:
        self.pair = Pair(options=OPTIONS)
        self.pair.run = self._run
        self.cuts = list(cuts)
        self.made = 0
        self.due = due
        self.sent = [0, 0]
        # At the source.
        self.history: dict[tuple[int, ...], None] = {tuple(self.pair.source.now): None}
        self.ran: list[int] = []
        self.tick_of: dict[int, tuple[int, int]] = {}
        self.given: dict[int, tuple[Outcome, bytes]] = {}
        self.deferred: dict[int, object] = {}
        self.pumped: dict[int, int] = {}
        self.uploaded: list[object] = []
        self.upload_ends = 0
        # At the client.
        self.step = 0
        self.opened = False
        self.answers: dict[int, tuple[Outcome, bytes]] = {}
        self.payloads: list[tuple[str, object]] = []
        self.downloaded: list[object] = []
        self.upload: int | None = None
        self.up = 0
        self.cancelled: list[int] = []

    # -- the connection --------------------------------------------------------------------

    def play(self) -> None:
        """Runs all of it, and checks what came of it."""
        quiet = 0
        self._link()
        while not self._done() or quiet < 3:
            moved = self._turn()
            quiet = 0 if moved else quiet + 1
            if quiet > 20:
                raise AssertionError(f"nothing moves any more: {self._story()}")
        self.check()

    def _link(self) -> None:
        self.left: list[int | None] = [*(self.cuts.pop(0) if self.cuts else (None, None))]

    def _turn(self) -> bool:
        self._ask()
        up = sent_by(self.pair.client)
        if self._carry(up, 0):
            return True
        self._serve()
        down = sent_by(self.pair.server)
        if self._carry(down, 1):
            return True
        return bool(up or down)

    def _carry(self, data: bytes, way: int) -> bool:
        """Delivers as much as may cross; True if the connection was cut by it."""
        left = self.left[way]
        cut = left is not None and left <= len(data)
        if cut:
            data = data[:left]
        elif left is not None:
            self.left[way] = left - len(data)
        self.sent[way] += len(data)
        if way:
            seen = self.pair.seen_by_client
            self.pair.to_client += data
            for event in self.pair.client.receive(data):
                seen.append(event)
                self._seen_by_client(event)
        else:
            at = len(self.pair.seen_by_server)
            self.pair.carry_up(data)
            for event in self.pair.seen_by_server[at:]:
                self._seen_by_server(event)
        if cut:
            self._cut()
        return cut

    def _cut(self) -> None:
        self.made += 1
        self.pair.cut()
        self.pair.served.cut()
        if self.due is Due.WHILE:
            self._answer_deferred()
        self._pump_down()
        self._ask()
        self.pair.reconnect()
        self._link()

    # -- the source ------------------------------------------------------------------------

    def _run(self, event: Called) -> None:
        seq, kind = event.seq, msgspec.msgpack.decode(event.args)
        self.ran.append(seq)
        self.pair.move(*event.states)
        self.history[tuple(self.pair.source.now)] = None
        state = event.states[0]
        self.tick_of[seq] = state, self.pair.source.now[state]
        self._payload()
        if kind == "later":
            self.deferred[seq] = seq
        elif kind == "down":
            self.pumped[seq] = 0
        elif kind == "up":
            self.pair.served.open_upload(seq)
        elif kind == "large back":
            self._answer(seq, LARGE)
        else:
            self._answer(seq, kind)

    def _payload(self) -> None:
        number = len(self.ran) - 1
        if number < len(PAYLOADS):
            name, data = PAYLOADS[number]
            self.pair.served.send_payload(name, wire.to_raw(data))

    def _answer(self, seq: int, value: object, outcome: Outcome = Outcome.EXECUTED) -> None:
        raw = wire.to_raw(value)
        assert seq not in self.given
        self.given[seq] = outcome, bytes(raw)
        assert self.pair.served.answer(seq, outcome, raw)

    def _serve(self) -> None:
        back = self.pair.served.phase is Phase.OPEN
        if self.due is Due.BEFORE or (back and (self.made or not self.cuts)):
            self._answer_deferred()
        self._pump_down()

    def _answer_deferred(self) -> None:
        deferred, self.deferred = self.deferred, {}
        for seq, value in deferred.items():
            self._answer(seq, value)

    def _pump_down(self) -> None:
        served = self.pair.served
        for seq, at in [*self.pumped.items()]:
            while at < len(ITEMS):
                raw = wire.to_raw(ITEMS[at])
                if not served.has_room(seq):
                    break
                served.send_item(seq, raw)
                at += 1
            self.pumped[seq] = at
            if at == len(ITEMS):
                del self.pumped[seq]
                self._answer(seq, "whole")

    def _seen_by_server(self, event: Event | Called) -> None:
        if isinstance(event, Cancelled) and event.seq in self.deferred:
            del self.deferred[event.seq]
            self._answer(event.seq, None, Outcome.CANCELED)
        elif isinstance(event, Streamed):
            self.uploaded.append(msgspec.msgpack.decode(event.data))
            self.pair.served.consumed(event.seq, len(event.data))
        elif isinstance(event, StreamEnded):
            assert isinstance(event.error, JobFailed)
            self.upload_ends += 1
            self._answer(event.seq, len(self.uploaded))
        else:
            assert not isinstance(event, Closed), event
            assert not isinstance(event, Admitted) or event.session

    # -- the client ------------------------------------------------------------------------

    def _ask(self) -> None:
        """One more step of the program, whether it is connected or not."""
        if not self.opened:
            return
        if self.step < len(STEPS):
            state, kinds = STEPS[self.step]
            self.step += 1
            for kind in kinds:
                self._call(state, kind)
            if self.step in CANCELS:
                self._cancel(CANCELS[self.step])
        self._pump_up()

    def _call(self, state: int, kind: str) -> None:
        value = wire.to_raw(LARGE if kind == "large" else kind)
        upload = kind == "up"
        seq = self.pair.client.ask(0, [state], value, upload=upload, download=kind == "down")
        if upload:
            self.upload = seq

    def _cancel(self, seq: int) -> None:
        if seq in self.answers:
            return
        self.cancelled.append(seq)
        if self.pair.client.cancel(seq):  # it had not left
            self.answers[seq] = Outcome.CANCELED, bytes(NIL)

    def _pump_up(self) -> None:
        client, seq = self.pair.client, self.upload
        while seq is not None and self.up < len(ITEMS):
            raw = wire.to_raw(ITEMS[self.up])
            if not client.has_room(seq):
                return
            client.send_item(seq, raw)
            self.up += 1
            if self.up == len(ITEMS):
                client.end_upload(seq, JobFailed("no more", error_type="StopIteration"))

    def _seen_by_client(self, event: Event | Called) -> None:
        ticks = self.pair.client.follower.ticks
        if isinstance(event, Opened):
            self.opened = True
        if isinstance(event, Opened | Advanced):
            assert tuple(ticks) in self.history, "the replica saw a mix"
        elif isinstance(event, Answered):
            assert event.seq not in self.answers, f"{event.seq} was answered twice"
            self.answers[event.seq] = event.outcome, bytes(event.value)
            if event.seq in self.tick_of:
                state, tick = self.tick_of[event.seq]
                assert ticks[state] >= tick, "answered before the effect was seen"
        elif isinstance(event, Delivered):
            self.payloads.append((event.name, msgspec.msgpack.decode(event.data)))
        elif isinstance(event, Streamed):
            assert event.seq not in self.answers, "an item after the answer"
            self.downloaded.append(msgspec.msgpack.decode(event.data))
            self.pair.client.consumed(event.seq, len(event.data))
        else:
            assert not isinstance(event, Closed), event

    # -- the end ---------------------------------------------------------------------------

    def _done(self) -> bool:
        return (
            self.opened
            and self.step == len(STEPS)
            and not self.pair.client.memory.asked
            and len(self.payloads) == len(PAYLOADS)
        )

    def check(self) -> None:
        """What has to be true whatever was cut."""
        pair, story = self.pair, self._story()
        numbers = range(1, 11)
        assert (pair.client.phase, pair.server.phase) == (Phase.OPEN, Phase.OPEN), story
        # S5, S6: at most once, in the order sent; and nothing is lost that was not taken back.
        assert self.ran == sorted(set(self.ran)), story
        assert set(numbers) - set(self.ran) <= set(self.cancelled), story
        # Each is answered, with the one answer that was given.
        assert sorted(self.answers) == [*numbers], story
        for seq, answer in self.answers.items():
            nothing = Outcome.CANCELED, bytes(NIL)
            assert answer == self.given.get(seq, nothing), (seq, story)
        assert self.payloads == PAYLOADS, story
        assert self.downloaded == ITEMS and self.uploaded == ITEMS, story
        assert self.upload_ends == 1, story
        assert pair.client.follower.ticks == pair.source.now, story
        # Nothing is left over.
        assert pair.served.memory.unacknowledged == 0, story
        assert not pair.client.memory.uploads and not pair.client.memory.downloads, story
        assert not pair.served.memory.uploads and not len(pair.served.memory.answering), story
        assert pair.client.received_bytes_kept == pair.server.received_bytes_kept == 0, story

    def _story(self) -> str:
        return (
            f"{self.made} cuts, due {self.due.name}: ran {self.ran}, cancelled "
            f"{self.cancelled}, answered {sorted(self.answers)}, "
            f"{len(self.payloads)} payloads, {len(self.downloaded)} items down, "
            f"{len(self.uploaded)} up, phases "
            f"{self.pair.client.phase.name} {self.pair.server.phase.name}"
        )


# -- where to cut ------------------------------------------------------------------------


@cache
def sizes(due: Due) -> tuple[int, int]:
    """Bytes that cross up and down where nothing is cut."""
    exchange = Exchange([], due)
    exchange.play()
    return exchange.sent[0], exchange.sent[1]


def every_byte(due: Due) -> Iterator[list[Cut]]:
    """Each cut of one connection, up and down."""
    up, down = sizes(due)
    yield from ([(at, None)] for at in range(up))
    yield from ([(None, at)] for at in range(down))


def at_random(due: Due, dice: random.Random) -> list[Cut]:
    """Two to four connections that are cut somewhere, one way or the other."""
    up, down = sizes(due)
    return [
        (dice.randrange(up), None) if dice.random() < 0.5 else (None, dice.randrange(down))
        for _ in range(dice.randint(2, 4))
    ]


def play(cuts: list[Cut], due: Due) -> int:
    """One exchange; returns how often it was cut."""
    exchange = Exchange(cuts, due)
    try:
        exchange.play()
    except AssertionError as error:
        raise AssertionError(f"cuts {cuts}, due {due}: {error}") from error
    return exchange.made


# -- without a test runner ---------------------------------------------------------------


def _share(part: int, parts: int, cuts: int, seed: int) -> Counter[str]:
    done: Counter[str] = Counter()
    for due in Due:
        for at, where in enumerate(every_byte(due)):
            if at % parts == part:
                done["at every byte"] += play(where, due)
    dice = random.Random(f"{seed} {part}")
    while done.total() * parts < cuts:
        due = dice.choice([*Due])
        done["at random"] += play(at_random(due, dice), due)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cuts", type=int, default=120_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    total: Counter[str] = Counter()
    with ProcessPoolExecutor(options.jobs) as pool:
        shares: list[Any] = [
            pool.submit(_share, part, options.jobs, options.cuts, options.seed)
            for part in range(options.jobs)
        ]
        for share in shares:
            total += share.result()
    print(f"{total.total()} cuts, none of which was noticed: {dict(total)}")


if __name__ == "__main__":
    main()
