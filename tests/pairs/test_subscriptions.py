"""What a client follows, and how: every mutation, activity only, some states, not too often."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from amnode.errors import NotSyncedError, OptionError
from amnode.machine.queue import EXECUTED, MutationType
from tests.pairs.driven import EAGER, House, Knock
from tests.pairs.driven import anywhere as anywhere  # fixtures
from tests.pairs.driven import line as line


class Seen:
    """A tracer of a replica."""

    def __init__(self) -> None:
        self.steps: list[tuple[MutationType | None, list[str], list[str]]] = []

    def transition_end(self, transition: Any) -> None:
        names = transition.machine.schema.names
        self.steps.append(
            (
                transition.type,
                [names[i] for i in transition.called],
                [names[i] for i in transition.changed],
            )
        )


async def test_every_mutation_arrives_on_its_own(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect(every=True)
    plain = await anywhere.connect(id="rc-you", secret=b"another")
    seen, merged = Seen(), Seen()
    client.source.trace(seen)
    plain.source.trace(merged)
    source = anywhere.source
    source.add1("Unlocked")
    source.add(["Open", "Hidden"])
    source.add1("Closed")
    source.remove(["Unlocked", "Hidden"])
    source.add1("Open")  # refused: nothing moves, and nothing is told
    for client_ in (client, plain):
        await client_.source.when1("Closed")
        assert client_.source.clock() == source.clock()
    assert seen.steps == [
        (MutationType.ADD, ["Unlocked"], ["Unlocked"]),
        (MutationType.ADD, ["Open", "Hidden"], ["Open", "Hidden"]),
        (MutationType.ADD, ["Closed"], ["Open", "Closed"]),
        (MutationType.REMOVE, ["Unlocked", "Hidden"], ["Unlocked", "Hidden"]),
    ]
    assert len(merged.steps) == 1 and merged.steps[0][0] is None
    assert sorted(merged.steps[0][2]) == ["Closed", "Hidden", "Open", "Unlocked"]
    await client.source.add1("Knocked", Knock(1))
    assert seen.steps[-1] == (MutationType.ADD, ["Knocked"], ["Knocked"])
    client.source.untrace(seen)
    plain.source.untrace(merged)


async def test_the_source_is_traced_only_while_somebody_wants_every_mutation(
    anywhere: House,
) -> None:
    mux = await anywhere.mux()
    assert not anywhere.source._tracers
    client = await anywhere.connect(every=True)
    you = await anywhere.connect(id="rc-you", secret=b"another", every=True)
    assert anywhere.source._tracers
    await client.stop()
    await anywhere.until(lambda: len(mux.servers) == 1)
    assert anywhere.source._tracers
    await you.stop()
    await anywhere.until(lambda: not mux.servers)
    assert not anywhere.source._tracers


async def test_every_mutation_of_some_states_over_a_cut(line: House) -> None:
    await line.mux()
    proxy = await line.behind_proxy()
    client = await line.connect(every=True, states=["Knocked"], options=EAGER)
    seen = Seen()
    client.source.trace(seen)
    line.source.add1("Unlocked")  # not followed
    line.source.add1("Knocked")
    await client.source.when1("Knocked")
    proxy.refusing = True
    proxy.cut()
    await line.until(lambda: line.cut)
    line.source.add1("Knocked")
    line.source.add1("Knocked")
    proxy.refusing = False
    await client.source.when_time(["Knocked"], [5])
    await line.source.add1("Knocked")
    await client.source.when_time(["Knocked"], [7])
    types = [step for step in seen.steps if step[2]]
    assert [step[0] for step in types] == [MutationType.ADD, None, MutationType.ADD]
    client.source.untrace(seen)


async def test_shallow_ticks_count_what_was_seen(anywhere: House) -> None:
    await anywhere.mux()
    source = anywhere.source
    for _ in range(4):
        source.add1("Knocked")
    source.add1("Unlocked")
    client = await anywhere.connect(shallow=True)
    door = client.source
    assert door.clock(["Unlocked", "Knocked", "Open"]) == {
        "Unlocked": 1,
        "Knocked": 1,
        "Open": 0,
    }
    source.add1("Knocked")  # a multi state: active before and after
    source.remove1("Unlocked")
    source.add1("Unlocked")
    assert await door.add1("Open") is EXECUTED
    assert door.clock(["Unlocked", "Knocked", "Open"]) == {
        "Unlocked": 1,
        "Knocked": 1,
        "Open": 1,
    }
    assert await door.remove1("Unlocked") is EXECUTED
    assert door.tick("Unlocked") == 2 and door.not1("Unlocked")


async def test_all_but_some_states_are_followed(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect(states=["Hidden", "Knocked"], all_but=True)
    door = client.source
    anywhere.source.add(["Hidden", "Unlocked"])
    await door.when1("Unlocked")
    with pytest.raises(NotSyncedError):
        door.is1("Hidden")
    assert "Knocked" not in door.clock() and "Open" in door.clock()
    with pytest.raises(OptionError, match="all_but"):
        anywhere.client(all_but=True)


async def test_a_required_state_reads_as_active_at_any_distance(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect(states=["Open"])
    door = client.source
    await door.add(["Unlocked", "Open"])
    assert door.is_(["Open", "Unlocked"])
    with pytest.raises(NotSyncedError):
        door.tick("Unlocked")
    await door.remove1("Open")
    with pytest.raises(NotSyncedError):
        door.is1("Unlocked")


async def test_updates_are_not_more_often_than_the_interval(anywhere: House) -> None:
    mux = await anywhere.mux()
    client = await anywhere.connect(push_interval=0.02)
    door, source = client.source, anywhere.source
    seen = Seen()
    door.trace(seen)
    server = mux.servers["rc-me"]
    source.add1("Unlocked")
    await door.when1("Unlocked")
    assert server._push_timer is not None
    for _ in range(5):  # in turns of their own, within the interval
        source.add1("Knocked")
        await asyncio.sleep(0)
    # An answer does not wait, and brings what was held back.
    assert await door.add1("Open") is EXECUTED
    assert door.tick("Knocked") == 9
    held = len(seen.steps)
    source.add1("Hidden")
    await door.when1("Hidden")
    assert len(seen.steps) == held + 1
    await client.stop()
    await anywhere.until(lambda: not mux.servers)
    assert server._push_timer is None
    with pytest.raises(OptionError, match="push_interval"):
        anywhere.client(push_interval=-1)


async def test_observers_see_all_and_do_nothing(anywhere: House) -> None:
    await anywhere.mux()
    observer = await anywhere.connect(role="observer", every=True, shallow=True)
    you = await anywhere.connect(id="rc-you", secret=b"another")
    await you.source.add1("Unlocked")
    await observer.source.when1("Unlocked")
    assert anywhere.muxes[0].servers["rc-me"].role == "observer"
