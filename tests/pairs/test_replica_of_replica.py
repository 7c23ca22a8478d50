"""A replica that is the source of another server: a tree of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from amnode.errors import (
    ConnectionLost,
    JobFailed,
    NotSyncedError,
    Outcome,
    RefusedError,
)
from amnode.machine.machine import Machine
from amnode.machine.queue import CANCELED, EXECUTED, MutationType
from amnode.machine.transition import Event
from amnode.rpc.client import RpcClient
from amnode.rpc.mux import Mux
from amnode.rpc.origin import Origin
from tests.pairs.driven import EAGER, EXPOSURE, SECRET, Door, House, Knock
from tests.pairs.driven import line as line  # a fixture
from tests.pairs.test_subscriptions import Seen


def origin_of(event: Event) -> Origin:
    origin = event.mutation.origin
    assert isinstance(origin, Origin)
    return origin


async def _await(result: Any) -> Any:
    return await result


class Tree:
    """A house, a client of it in the middle, and the clients of that one's replica."""

    def __init__(self, house: House, address: str) -> None:
        self.house = house
        self.address = address
        self.middle: RpcClient
        self.mux: Mux
        self.leaves: list[RpcClient] = []

    async def grow(self, mux: dict[str, Any] | None = None, **options: Any) -> None:
        await self.house.mux()
        if self.house.proxy is None:
            await self.house.behind_proxy()
        self.middle = await self.house.connect(**{"options": EAGER, **options})
        self.mux = Mux(
            self.middle.source,
            self.address,
            name="middle",
            exposure=EXPOSURE,
            secret_of=lambda _id, _role: SECRET,
            **(mux or {}),
        )
        await self.mux.start()

    async def leaf(self, **options: Any) -> RpcClient:
        defaults: dict[str, Any] = {"id": f"rc-{len(self.leaves)}", "options": EAGER}
        leaf = RpcClient(self.mux.address, secret=SECRET, **{**defaults, **options})
        self.leaves.append(leaf)
        await leaf.start()
        return leaf

    async def close(self) -> None:
        for leaf in self.leaves:
            await leaf.stop()
            await leaf.machine.dispose()
        await self.mux.stop()
        await self.mux.machine.dispose()


@pytest.fixture
async def tree(line: House, tmp_path: Path) -> AsyncIterator[Tree]:
    tree = Tree(line, f"unix:{tmp_path}/middle" if "unix" in line.address else "tcp:[::1]:0")
    yield tree
    await tree.close()


async def test_states_pass_down_and_mutations_up(tree: Tree) -> None:
    await tree.grow()
    leaf, other = await tree.leaf(), await tree.leaf()
    source, door = tree.house.source, leaf.source
    assert door.source_id == tree.middle.source.source_id == "door"
    assert await door.add1("Unlocked") is EXECUTED
    # Each level is in step once the answer is there.
    assert source.is1("Unlocked") and tree.middle.source.is1("Unlocked")
    assert door.clock() == tree.middle.source.clock() == source.clock()
    assert door.queue_tick == source.queue_tick
    await other.source.when1("Unlocked")
    source.add1("Open")
    await door.when1("Open")
    assert await door.add1("Knocked", Knock(4)) is EXECUTED
    assert tree.house.handlers.seen[-1][1] == Knock(4)
    assert await door.remove(["Open"]) is EXECUTED
    assert await door.toggle1("Closed") is EXECUTED
    assert door.is1("Closed") and source.is1("Closed")


async def test_values_and_errors_pass_down(tree: Tree) -> None:
    await tree.grow()
    door = (await tree.leaf()).source
    value = {"a": [1, b"x"]}
    tree.house.handlers.on_work = lambda event: origin_of(event).defer().answer(value)
    assert await door.request(["Work"], result_type=dict) == value
    big = b"x" * 3_000_000
    tree.house.handlers.on_work = lambda event: origin_of(event).defer().answer(big)
    assert await door.request(["Work"], result_type=bytes) == big
    tree.house.handlers.on_work = lambda event: origin_of(event).defer().fail(JobFailed("no"))
    with pytest.raises(JobFailed, match="no"):
        await door.request(["Work"])
    assert await door.add1("Open") is CANCELED
    with pytest.raises(RefusedError, match="Hidden"):
        await door.add1("Hidden")


async def test_what_the_middle_is_not_allowed_nobody_below_is(tree: Tree) -> None:
    await tree.grow(role="observer")
    door = (await tree.leaf()).source
    with pytest.raises(RefusedError, match="observer"):
        await door.add1("Unlocked")
    assert not await door.can_add1("Unlocked")
    assert tree.house.source.tick("Unlocked") == 0


async def test_questions_pass_up(tree: Tree) -> None:
    await tree.grow()
    door = (await tree.leaf()).source
    assert await door.can_add1("Unlocked") and not await door.can_add1("Open")
    wait = door.when_args("Knocked", {"times": 2})
    await door.add1("Unlocked")
    tree.house.source.add1("Knocked", Knock(2))
    assert await wait is EXECUTED


async def test_a_cancel_passes_up(tree: Tree) -> None:
    await tree.grow()
    door = (await tree.leaf()).source
    cancelled = asyncio.Event()
    came = asyncio.Event()

    def work(event: Event) -> None:
        origin_of(event).defer().on_cancel(cancelled.set)
        came.set()

    tree.house.handlers.on_work = work
    task = asyncio.ensure_future(_await(door.add1("Work")))
    await came.wait()
    task.cancel()
    await cancelled.wait()
    assert await door.add1("Unlocked") is EXECUTED


async def test_a_leaf_that_goes_takes_back_what_it_asked_for(tree: Tree) -> None:
    await tree.grow()
    leaf = await tree.leaf()
    cancelled, came = asyncio.Event(), asyncio.Event()

    def work(event: Event) -> None:
        origin_of(event).defer().on_cancel(cancelled.set)
        came.set()

    tree.house.handlers.on_work = work
    leaf.source.add1("Work")
    await came.wait()
    await leaf.stop()
    await cancelled.wait()


async def test_a_stream_goes_through_a_replica(tree: Tree) -> None:
    await tree.grow()
    door = (await tree.leaf()).source

    async def items() -> AsyncIterator[int]:
        for n in range(1000):
            yield n
        raise JobFailed("no more", error_type="StopWorking")

    tree.house.handlers.on_work = lambda event: origin_of(event).defer().stream(items())
    got: list[int] = []
    with pytest.raises(JobFailed, match="no more"):
        async for item in door.stream(["Work"], item_type=int):
            got.append(item)
    assert got == [*range(1000)]


async def test_a_reader_below_that_stops_ends_the_stream_above(tree: Tree) -> None:
    await tree.grow()
    door = (await tree.leaf()).source
    closed = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    tree.house.handlers.on_work = lambda event: origin_of(event).defer().stream(items())
    stream = door.stream(["Work"], item_type=int)
    assert await anext(stream) == 1
    await stream.aclose()
    await closed.wait()


async def test_an_upload_goes_through_a_replica(tree: Tree) -> None:
    await tree.grow()
    door = (await tree.leaf()).source

    def work(event: Event) -> None:
        origin = origin_of(event)
        answer, items = origin.defer(), origin.items(int)

        async def add() -> None:
            answer.answer(sum([item async for item in items]))

        event.machine.spawn("Work", add())

    async def numbers() -> AsyncIterator[int]:
        for n in range(100):
            yield n

    tree.house.handlers.on_work = work
    assert await door.request(["Work"], upload=numbers(), result_type=int) == sum(range(100))


async def test_a_queue_tick_of_the_source_is_waited_for(tree: Tree) -> None:
    await tree.grow()
    door = (await tree.leaf()).source
    result = door.add1("Unlocked")
    assert await door.when_queue(result) is EXECUTED
    waiting = door.when_queue(door.queue_tick + 1)
    tree.house.source.add1("Knocked")
    await waiting
    assert door.queue_tick == tree.house.source.queue_tick
    waiting = door.when_queue(door.queue_tick + 1)
    assert await door.add1("Unlocked") is EXECUTED  # changes nothing; its answer tells
    await waiting


async def test_a_cut_above_is_not_seen_below(tree: Tree) -> None:
    await tree.grow()
    leaf = await tree.leaf()
    door = leaf.source
    proxy = tree.house.proxy
    assert proxy is not None
    proxy.refusing = True
    proxy.cut()
    await tree.middle.machine.when1("RetryingConn")
    result = door.add1("Unlocked")
    tree.house.source.add1("Hidden")
    assert leaf.machine.is1("Ready") and door.not1("Hidden")
    proxy.refusing = False
    assert await result is EXECUTED
    await door.when1("Hidden")
    assert leaf.machine.tick("Connected") == 1


async def test_a_restarted_source_is_another_machine_to_the_leaves(tree: Tree) -> None:
    await tree.grow()
    leaf = await tree.leaf()
    door = leaf.source
    await door.add1("Unlocked")
    context, state = door.state_ctx("Unlocked"), door.when1("Open")
    tick = door.when_time(["Knocked"], [9])
    proxy = tree.house.proxy
    assert proxy is not None
    proxy.refusing = True
    proxy.cut()
    await tree.middle.machine.when1("RetryingConn")
    await tree.house.muxes[0].stop()
    other = House(tree.house.muxes[0].address)
    other.source = Machine(Door, id="door-2")
    try:
        await other.mux()
        proxy.target = other.address
        proxy.refusing = False
        await context.ended()
        with pytest.raises(ConnectionLost):
            await tick
        other.source.add(["Unlocked"])
        other.source.add(["Open"])
        await state
        assert door.source_id == tree.middle.source.source_id == "door-2"
        assert door.clock() == other.source.clock() and leaf.source is door
        assert await door.add1("Closed") is EXECUTED
        await tree.middle.stop()
    finally:
        await other.close()


async def test_a_source_that_is_lost_lets_its_leaves_go(tree: Tree) -> None:
    await tree.grow()
    lost: list[Exception] = []
    leaf = await tree.leaf(on_lost=lost.append)
    wait, call = leaf.source.when1("Open"), leaf.source.add1("Work")
    await tree.house.muxes[0].stop()
    with pytest.raises(ConnectionLost, match="its source is lost"):
        await wait
    with pytest.raises(ConnectionLost) as raised:
        await call
    assert raised.value.outcome in (Outcome.UNKNOWN, Outcome.RUN)
    assert len(lost) == 1
    with pytest.raises(RefusedError, match="source is lost"):
        await tree.leaf()


async def test_a_replica_of_some_states_serves_those(tree: Tree) -> None:
    await tree.grow(states=["Open", "Knocked", "Closed"])
    leaf = await tree.leaf()
    door = leaf.source
    tree.house.source.add1("Unlocked")
    assert await door.add1("Open") is EXECUTED
    assert door.clock() == {"Open": 1, "Closed": 0, "Knocked": 0}
    assert door.is1("Unlocked")  # Open requires it
    with pytest.raises(NotSyncedError):
        door.tick("Unlocked")
    some = await tree.leaf(states=["Knocked"])
    assert some.source.clock() == {"Knocked": 0}
    with pytest.raises(NotSyncedError):
        await tree.leaf(states=["Unlocked"])
    rest = await tree.leaf(states=["Open"], all_but=True)
    assert rest.source.clock() == {"Closed": 0, "Knocked": 0}
    before = door.tick("Knocked")
    tree.house.source.add(["Hidden"])
    tree.house.source.add1("Knocked")
    await door.when_time(["Knocked"], [before + 1])


async def test_every_mutation_passes_down_where_the_middle_asked_for_it(tree: Tree) -> None:
    await tree.grow(every=True)
    leaf = await tree.leaf(every=True)
    seen = Seen()
    leaf.source.trace(seen)
    tree.house.source.add1("Unlocked")
    tree.house.source.add(["Open", "Hidden"])
    await leaf.source.when1("Hidden")
    assert seen.steps == [
        (MutationType.ADD, ["Unlocked"], ["Unlocked"]),
        (MutationType.ADD, ["Open", "Hidden"], ["Open", "Hidden"]),
    ]
    leaf.source.untrace(seen)


async def test_every_mutation_of_a_middle_that_merges_comes_as_a_sum(tree: Tree) -> None:
    await tree.grow()
    leaf = await tree.leaf(every=True)
    seen = Seen()
    leaf.source.trace(seen)
    tree.house.source.add1("Unlocked")
    tree.house.source.add1("Hidden")
    await leaf.source.when1("Hidden")
    assert seen.steps == [(None, [], ["Unlocked", "Hidden"])]
    leaf.source.untrace(seen)


async def test_shallow_clocks_pass_down(tree: Tree) -> None:
    await tree.grow(shallow=True)
    door = (await tree.leaf()).source
    for _ in range(3):
        tree.house.source.add1("Knocked")
    assert await door.add1("Unlocked") is EXECUTED
    assert door.tick("Knocked") == 1
    assert msgspec.msgpack.encode(door.time()) == msgspec.msgpack.encode(
        tree.middle.source.time()
    )
