"""A run of the fuzzer in one process, and the corpus that it keeps."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from time import monotonic, process_time
from typing import Final

import msgspec

from tests.fuzz.grammar import Grammar
from tests.fuzz.rooms import Actor, Broken, Case, Timer, visit

CORPUS: Final = Path(__file__).parent / "corpus" / "cases.jsonl"
#: Inputs of the corpus are no larger, so that it stays small.
_SMALL: Final = 400
#: Cases between two looks at the clock; one in so many goes to a whole server.
_BATCH, _ACTOR = 64, 16
#: Seconds of one batch after which a case hangs.
_HANG: Final = 20
#: Frames after which memory has its shape, and what counts is what comes on top.
_WARM: Final = 20_000

_decoder = msgspec.json.Decoder(Case)


class Report(msgspec.Struct):
    """What a run found.

    Attributes:
        seed: of the run.
        frames: that were sent.
        cases: peers that sent them.
        trusted: frames that came after authentication.
        seconds: that it took.
        processor: seconds of the processor that it took.
        worst: nanoseconds of processor time that the worst piece took.
        worst_case: which that was.
        memory: bytes that the peak grew by, once it was warm.
        found: one small case, if there was any, of everything that happened, by what it was.
        broken: rules that were broken, and by which case.
    """

    seed: int
    frames: int = 0
    cases: int = 0
    trusted: int = 0
    seconds: float = 0.0
    processor: float = 0.0
    worst: int = 0
    worst_case: Case | None = None
    memory: int = 0
    found: dict[str, Case | None] = {}
    broken: list[tuple[str, Case]] = []


def peak() -> int:
    """The most bytes that this process had in memory."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


@contextmanager
def deadline() -> Generator[None]:
    """Raises `Broken` where a batch of cases hangs."""

    def ring(_signal: int, _frame: object) -> None:
        raise Broken(f"rule 1: it did not end within {_HANG} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(_HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


async def run(seed: int, *, frames: int = 0, seconds: float = 0.0) -> Report:
    """Sends so many frames, or for so long, or until a rule is broken."""
    report, timer = Report(seed), Timer()
    grammar, actor = Grammar(Random(seed)), Actor()
    began, worked, base = monotonic(), process_time(), 0
    await actor.start()
    gc.collect()
    frozen = gc.get_freeze_count() > 0  # as by the suite
    gc.freeze()  # that a look at all modules takes long says nothing about a frame
    try:
        while not report.broken:
            with deadline():
                await _batch(report, timer, grammar, actor)
            if base == 0 and report.frames > _WARM:
                base = peak()
            report.seconds = monotonic() - began
            if (frames and report.frames >= frames) or (seconds and report.seconds >= seconds):
                break
    finally:
        if not frozen:
            gc.unfreeze()
        await actor.stop()
    report.processor = process_time() - worked
    report.memory = peak() - base if base else 0
    report.worst, report.worst_case = timer.worst, timer.case
    return report


async def _batch(report: Report, timer: Timer, grammar: Grammar, actor: Actor) -> None:
    for at in range(_BATCH):
        whole = at % _ACTOR == 0
        case, frames = grammar.case("actor" if whole else ("server", "client")[at % 2])
        report.cases += 1
        report.frames += frames
        report.trusted += frames * (case.depth >= 2)
        try:
            said = await actor.visit(case, timer) if whole else visit(case, timer)
        except Exception as error:
            report.broken.append((f"{type(error).__name__}: {error}", case))
            return
        if report.found.get(said) is None:
            report.found[said] = case if _is_small(case) else None


# -- the corpus ----------------------------------------------------------------------------


def corpus() -> list[Case]:
    """What was interesting before."""
    return [_decoder.decode(line) for line in CORPUS.read_bytes().splitlines()]


def _is_small(case: Case) -> bool:
    return sum(map(len, case.pieces)) <= _SMALL and len(case.pieces) <= 20


def keep(found: dict[str, Case | None]) -> int:
    """Writes the corpus anew: one small case of every end, and of everything before one."""
    small: dict[str, Case] = {}
    for said, case in sorted(found.items(), key=lambda entry: entry[0]):
        if case is not None:
            room, first, end = said.split("|", 2)
            small.setdefault(f"{room} {end}", case)
            small.setdefault(f"{room} {first}", case)
    CORPUS.parent.mkdir(exist_ok=True)
    CORPUS.write_bytes(b"".join(msgspec.json.encode(case) + b"\n" for case in small.values()))
    return len(small)


async def replay(cases: list[Case]) -> list[str]:
    """What happens in each case.

    Raises:
        Broken: a rule was.
    """
    timer, actor, said = Timer(), Actor(), list[str]()
    await actor.start()
    try:
        for case in cases:
            if case.room == "actor":
                said.append(await actor.visit(case, timer))
            else:
                said.append(visit(case, timer))
    finally:
        await actor.stop()
    return said


def job(seed: int, frames: int, seconds: float) -> Report:
    """A run in a process of its own."""
    return asyncio.run(run(seed, frames=frames, seconds=seconds))
