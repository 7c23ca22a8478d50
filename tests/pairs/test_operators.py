"""The server of a worker for operators, and what an operator is told there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from amnode import (
    AuthError,
    Exposure,
    Machine,
    OptionError,
    RefusedError,
    RpcError,
    WorkerStates,
)
from amnode.node.args import InspectArgs, ServeOperatorArgs, WorkArgs
from amnode.node.operators import Operators, exposure_of
from amnode.node.outside import REAL
from amnode.node.telling import SHOWN, Inspection, Teller
from amnode.rpc.client import RpcClient
from amnode.rpc.mux import Mux
from amnode.rpc.options import ONE_CONNECTION

W = WorkerStates
ME = "rc-op-me"


class Scene:
    """A worker's machine, its operators, and its supervisor's connection."""

    def __init__(self, machine: Machine, operators: Operators, supervisor: RpcClient) -> None:
        self.machine = machine
        self.operators = operators
        self.supervisor = supervisor

    async def announce(self, timeout: float = 5.0, operator_id: str = ME) -> str:
        """An operator is announced; returns where it is to come."""
        args = ServeOperatorArgs(
            operator_id=operator_id, secret=b"once", delivery_timeout=timeout
        )
        return await self.supervisor.source.request([W.ServeOperator], args, result_type=str)

    @contextlib.asynccontextmanager
    async def operator(self) -> AsyncIterator[RpcClient]:
        """One who came."""
        address = await self.announce()
        rpc = RpcClient(address, id=ME, secret=b"once", options=ONE_CONNECTION)
        await rpc.start()
        try:
            yield rpc
        finally:
            await rpc.stop()


@contextlib.asynccontextmanager
async def scene(
    address: str = "memory:operators", story: int | None = None
) -> AsyncIterator[Scene]:
    """A worker's machine that is started."""
    machine = Machine(W, id="nw-one")
    operators = Operators(
        machine,
        address,
        name="one",
        exposure=lambda: Exposure(
            mutable={W.WorkRequested: WorkArgs, W.Healthcheck: None}, implied=W.schema().names
        ),
        story=story,
        outside=REAL,
    )
    machine.add(("Start", "LocalRpcReady"))
    local = Mux(
        machine,
        "memory:local",
        name="local",
        secret_of=lambda _client, _role: b"local",
        exposure=Exposure(mutable={W.ServeOperator: ServeOperatorArgs}),
    )
    await local.start()
    supervisor = RpcClient("memory:local", id="rc-super", secret=b"local")
    await supervisor.start()
    try:
        yield Scene(machine, operators, supervisor)
    finally:
        await supervisor.stop()
        await operators.close()
        await local.stop()
        await machine.dispose()


async def test_a_way_that_is_not_taken_in_time_is_closed() -> None:
    async with scene() as here:
        address = await here.announce(timeout=0.01)
        loop = asyncio.get_running_loop()
        later = loop.create_future()
        loop.call_later(0.01, later.set_result, None)  # due after that of the secret
        await later
        with pytest.raises(AuthError):
            await RpcClient(address, id=ME, secret=b"once").start()


async def test_another_announcement_of_the_same_operator_takes_the_place_of_the_first() -> None:
    async with scene() as here:
        await here.announce(timeout=0.01)
        loop = asyncio.get_running_loop()
        async with here.operator():
            later = loop.create_future()
            loop.call_later(0.01, later.set_result, None)
            await later  # the first one's time is over, and the second one is in
            assert here.operators._timers == {} == here.operators._secrets


async def test_where_it_cannot_listen_the_supervisor_is_told() -> None:
    async with scene("unix:/proc/nothing/here.o") as here:
        with pytest.raises(RpcError, match="/proc/nothing/here"):
            await here.announce()


async def test_an_exposure_that_cannot_be_is_told_to_the_supervisor() -> None:
    async with scene() as here:
        here.operators._exposure = lambda: Exposure(mutable={W.Releasing: None, W.Ready: None})
        with pytest.raises(OptionError, match="opens add of Ready"):
            await here.announce()


async def test_it_opens_what_clients_may_do_but_for_work() -> None:
    async with scene() as here, here.operator() as operator:
        assert await operator.source.add1(W.Healthcheck)
        with pytest.raises(RefusedError, match="WorkRequested is closed"):
            await operator.source.add1(W.WorkRequested, WorkArgs(job="any"))
    opened = exposure_of(Exposure(mutable={W.WorkRequested: WorkArgs, W.Releasing: None}))
    assert [*opened.mutable] == [W.Releasing, W.Inspect]


async def test_ending_lets_everybody_go() -> None:
    async with scene() as here, here.operator() as operator:
        await here.announce(operator_id="rc-op-other")
        lost = operator.source.when1(W.Exception)
        here.operators.abort()
        with pytest.raises(RpcError):
            await lost
        assert here.operators._timers == {} == here.operators._secrets


async def test_the_program_itself_lets_nobody_in_and_asks_for_nothing() -> None:
    async with scene() as here:
        args = ServeOperatorArgs(operator_id=ME, secret=b"once", delivery_timeout=1.0)
        assert not here.machine.add1(W.ServeOperator, args)
        assert not here.machine.add1(W.Inspect, InspectArgs())


# -- what is told --------------------------------------------------------------------------


async def test_a_story_is_kept_from_the_start_where_the_option_says_so() -> None:
    async with scene(story=5) as here, here.operator() as operator:
        for _ in range(3):
            here.machine.add1(W.Healthcheck)
            here.machine.remove1(W.Healthcheck)
        async with operator.source.stream([W.Inspect], item_type=Inspection) as told:
            (found,) = [item async for item in told]
        assert found.kept == 5 and len(found.story) <= 5
        assert {"Healthcheck"} == {name for entry in found.story for name in entry.called}


async def test_without_it_there_is_one_while_somebody_follows() -> None:
    async with scene() as here, here.operator() as operator:
        follow = InspectArgs(follow=True)
        async with operator.source.stream([W.Inspect], follow, item_type=Inspection) as told:
            first = await anext(told)
            assert (first.kept, first.story) == (0, ())
            here.machine.add_err(ValueError("odd"))
            found: list[Inspection] = []
            while not any("Exception" in e.called for item in found for e in item.story):
                found.append(await anext(told))
            assert found[-1].error == "ValueError: odd"
            assert here.machine._tracers.all
        await here.machine.when_query(lambda _: True)
        async with (
            asyncio.timeout(5),
            operator.source.stream([W.Inspect], item_type=Inspection) as told,
        ):
            (last,) = [item async for item in told]
        assert last.kept == 0 and last.error == "ValueError: odd"
        assert not here.machine._tracers.all


async def test_a_slow_reader_is_told_how_much_it_missed() -> None:
    machine = Machine(W, id="nw-one")
    teller = Teller(machine, Exposure)
    told = teller.tell(follow=True)
    assert (await anext(told)).story == ()
    for _ in range(SHOWN):
        machine.add1(W.Healthcheck)
        machine.remove1(W.Healthcheck)
    item = await anext(told)
    assert len(item.story) + item.missed == 2 * SHOWN and item.missed >= SHOWN
    assert item.story[0].number == item.missed + 1 and item.story[-1].number == 2 * SHOWN
    await told.aclose()  # type: ignore[attr-defined]
    assert not machine._tracers.all
    await machine.dispose()


async def test_what_may_be_changed_is_told_with_its_arguments() -> None:
    machine = Machine(W, id="nw-one")

    class Where(msgspec.Struct):
        place: str
        depth: int | None = None

    exposure = Exposure(
        mutable={"Heartbeat": Where, W.Inspect: InspectArgs},
        removable={"Start": None},
        implied=W.schema().names,
    )
    (found,) = [item async for item in Teller(machine, lambda: exposure).tell(follow=False)]
    assert [*found.may_add] == ["Heartbeat"] and found.may_remove == {"Start": ()}
    place, depth = found.may_add["Heartbeat"]
    assert (place.name, place.type, place.needed) == ("place", "str", True)
    assert (depth.name, depth.type, depth.needed) == ("depth", "int | None", False)
    await machine.dispose()
