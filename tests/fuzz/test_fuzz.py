"""The fuzzer in the suite: its corpus, a sample of it, and that it finds what is broken."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from amnode.rpc.exposure import Gate
from amnode.rpc.protocol import server_session, wire
from amnode.rpc.protocol.auth import Ticket
from amnode.rpc.protocol.session import Session
from amnode.rpc.protocol.wire import Role
from tests.fuzz.rooms import TRUSTED, Broken, Case
from tests.fuzz.run import CORPUS, corpus, replay, run

SEED = 20_240


async def test_what_was_interesting_before_breaks_no_rule() -> None:
    cases = corpus()
    assert {case.room for case in cases} == {"server", "client", "actor"}
    assert {case.depth for case in cases} == {0, 1, 2, 3}
    assert CORPUS.stat().st_size < 100_000
    assert len(await replay(cases)) == len(cases)


async def test_a_sample_breaks_no_rule() -> None:
    report = await run(SEED, frames=20_000)
    assert report.broken == [], f"seed {SEED}"
    assert report.frames >= 20_000 and 0.4 < report.trusted / report.frames < 0.7
    assert len(report.found) > 200, "most of what can happen happens"


async def test_the_same_seed_sends_the_same() -> None:
    first, again = [await run(SEED, frames=2_000) for _ in range(2)]
    assert [*first.found.values()] == [*again.found.values()]
    assert (first.frames, first.cases) == (again.frames, again.cases)


# -- it finds what is broken ---------------------------------------------------------------


def _raises(*_: object) -> Any:
    raise KeyError("a fault")


def _lets_through(_self: Gate, _role: Role, _type: int, _states: Any, _args: Any) -> None: ...


def _keeps(_self: wire.Framer) -> int:
    return 1 << 40


def _unchecked(handshake: Any, _message: wire.Proof) -> wire.Welcome:
    handshake.ticket = Ticket(b"t" * 16, b"k" * 32)
    return wire.Welcome(b"w" * 32)


def _tells_nobody(session: Session, _error: Exception) -> None:
    session.cut()


BREAKS: dict[str, tuple[object, str, Any, str]] = {
    "a handler raises": (Session, "_on_item", _raises, "a fault"),
    "the gate is open": (Gate, "check", _lets_through, "rule 4"),
    "proofs are not checked": (
        server_session.ServerHandshake,
        "proved",
        _unchecked,
        "rule 3",
    ),
    "a session keeps what came": (wire.Framer, "kept", property(_keeps), "rule 5"),
    "an error is not told": (Session, "fail", _tells_nobody, "rule 1"),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_it_finds_a_fault_that_was_planted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, attribute, fault, said = BREAKS[name]
    if attribute == "_on_item":  # it is taken from a table
        phases: dict[Any, dict[Any, Any]] = server_session.ServerSession._phases
        (table,) = (table for table in phases.values() if wire.Item in table)
        monkeypatch.setitem(table, wire.Item, fault)
    else:
        monkeypatch.setattr(where, attribute, fault)
    report = await run(SEED, frames=20_000)
    assert report.broken and said in report.broken[0][0]


async def test_a_case_that_broke_a_rule_breaks_it_again_when_it_is_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Gate, "check", _lets_through)
    ((_, case),) = (await run(SEED, frames=20_000)).broken
    again = msgspec.json.decode(msgspec.json.encode(case), type=Case)
    assert again == case and case.depth >= TRUSTED
    with pytest.raises(Broken):
        await replay([again])
    monkeypatch.undo()
    assert len(await replay([again])) == 1
