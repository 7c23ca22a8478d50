"""Server, mux and client, over each transport."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from amnode.errors import (
    AuthError,
    ConnectionLost,
    DeliveryError,
    JobFailed,
    MachineDisposedError,
    NotSyncedError,
    OptionError,
    ProtocolError,
    RefusedError,
    RpcError,
    RpcTimeoutError,
    SchemaError,
    StateArgsError,
    StateUnknownError,
)
from amnode.machine.machine import Machine
from amnode.machine.queue import CANCELED, EXECUTED
from amnode.machine.schema import Schema, State
from amnode.machine.transition import Event
from amnode.rpc.client import PayloadArgs, RpcClient
from amnode.rpc.mux import Mux
from amnode.rpc.options import ONE_CONNECTION, RpcOptions
from amnode.rpc.origin import Deferred, Origin
from amnode.rpc.server import RpcServer
from amnode.rpc.states import ConsumerStates
from tests.pairs.driven import Door, House, Knock
from tests.pairs.driven import house as house  # a fixture
from tests.pairs.session_pair import sent_by


def origin_of(event: Event) -> Origin:
    origin = event.mutation.origin
    assert isinstance(origin, Origin)
    return origin


# -- a connection ------------------------------------------------------------------------


async def test_the_states_of_all_three_machines_follow_a_connection(house: House) -> None:
    mux = await house.mux()
    assert str(mux.machine) == "(Start:1 Ready:1)"
    client = await house.connect()
    server = mux.servers["rc-me"]
    assert mux.machine.is_(("Start", "Ready", "HasClients"))
    assert mux.machine.tick("ClientConnected") == 2
    assert server.machine.is_(
        ("Start", "RpcReady", "ClientConnected", "HandshakeDone", "Ready")
    )
    assert server.is_open and (server.client_id, server.role) == ("rc-me", "controller")
    assert client.machine.is_(("Start", "Connected", "HandshakeDone", "Ready"))
    assert (mux.machine.id, server.machine.id) == ("rm-door", "rs-door-1")
    assert (client.machine.id, client.source.id) == ("rc-me", "rnm-me")
    assert client.source.source_id == "door"
    assert house.connected == ["rc-me"]
    await client.stop()
    await house.gone.wait()
    assert client.machine.active_states() == ["Disconnected"]
    assert not mux.servers and mux.machine.not1("HasClients")
    assert server.machine.not_(("Start", "ClientConnected", "HandshakeDone", "Ready"))
    (who, reason) = house.disconnected[0]
    assert who == "rc-me" and "the client stops" in reason
    await mux.stop()
    assert not mux.machine.active_states()


async def test_start_and_stop_may_be_called_again(house: House) -> None:
    mux = await house.mux()
    await mux.start()
    client = await house.connect()
    with pytest.raises(RpcError, match="started already"):
        await client.start()
    first = client.source
    await client.stop()
    await client.stop()
    await client.start()
    assert client.source is not first
    assert await client.source.add1("Unlocked") is EXECUTED
    await mux.stop()
    await mux.stop()
    await mux.start()


async def test_a_client_has_no_replica_before_its_first_start(house: House) -> None:
    with pytest.raises(RpcError, match="no replica"):
        _ = house.client().source


@pytest.mark.parametrize("wrong", [{"id": ""}, {"secret": b""}, {"role": "king"}])
async def test_a_client_that_cannot_work_is_refused_when_it_is_made(wrong: Any) -> None:
    with pytest.raises(OptionError):
        RpcClient("memory:x", **{"id": "rc-x", "secret": b"x", **wrong})


# -- mutations ---------------------------------------------------------------------------


async def test_a_done_result_is_reflected_by_the_replica(house: House) -> None:
    await house.mux()
    door = (await house.connect()).source
    result = door.add1("Unlocked")
    assert not result.done
    with pytest.raises(RpcError, match="not answered"):
        bool(result)
    assert await result is EXECUTED and result
    assert door.is1("Unlocked") and door.clock() == house.source.clock()
    assert door.queue_tick == house.source.queue_tick
    assert await result is EXECUTED  # again
    assert await door.add(["Open"]) is EXECUTED
    assert await door.remove1("Open") is EXECUTED
    assert await door.toggle1("Open") is EXECUTED and door.is1("Open")
    assert await door.toggle(["Open", "Unlocked"]) is EXECUTED and door.not1("Open")
    assert await door.remove(["Unlocked"]) is EXECUTED
    canceled = door.add1("Open")
    assert await canceled is CANCELED and not canceled
    assert door.time() == house.source.time()


async def test_a_result_calls_back_once_it_is_done(house: House) -> None:
    await house.mux()
    door = (await house.connect()).source
    told: list[tuple[str, bool]] = []
    first, second = door.add1("Unlocked"), door.add1("Unlocked")
    first.then(lambda result: told.append(("first", bool(result))))
    second.then(lambda result: told.append(("second", result.done)))
    second.then(lambda _: told.append(("again", door.is1("Unlocked"))))
    assert told == []
    await second
    assert told == [("first", True), ("second", True), ("again", True)]
    second.then(lambda result: told.append(("at once", bool(result))))
    assert told[-1] == ("at once", True)


async def test_mutations_are_on_their_way_without_being_awaited_and_in_order(
    house: House,
) -> None:
    await house.mux()
    door = (await house.connect()).source
    results = [door.add1("Unlocked"), door.add1("Open"), door.remove1("Unlocked")]
    last = door.add1("Closed")
    assert await last is EXECUTED
    assert all(result.done for result in results)
    assert house.source.clock(["Unlocked", "Open", "Closed"]) == {
        "Unlocked": 2,
        "Open": 2,
        "Closed": 1,
    }


async def test_arguments_arrive_as_the_struct_that_the_state_declares(house: House) -> None:
    await house.mux()
    door = (await house.connect()).source
    await door.add1("Knocked", Knock(3))
    await door.add1("Knocked", {"times": 4})
    assert house.handlers.seen == [("KnockedEnter", Knock(3)), ("KnockedEnter", Knock(4))]
    with pytest.raises(DeliveryError, match="cannot be encoded"):
        door.add1("Knocked", object())
    with pytest.raises(StateUnknownError, match="Knocked"):
        door.add1("Knoked")


async def test_arguments_that_the_state_itself_refuses_are_answered_with_why(
    house: House,
) -> None:
    class Strict(Door):
        Unlocked = State(args=Knock)

    house.source = Machine(Strict, id="door")
    await house.mux()
    door = (await house.connect()).source
    with pytest.raises(StateArgsError, match="Unlocked takes Knock"):
        await door.add1("Unlocked")
    assert house.source.queue_tick == 1
    assert await door.add1("Knocked", Knock(3)) is EXECUTED  # the connection goes on


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda door: door.add1("Hidden"), RefusedError),
        (lambda door: door.remove1("Knocked"), RefusedError),
        (lambda door: door.set(["Unlocked"]), RefusedError),
        (lambda door: door.set1("Unlocked"), RefusedError),
        (lambda door: door.toggle1("Knocked"), RefusedError),
        (lambda door: door.add(["Unlocked", "Hidden"]), RefusedError),
        (lambda door: door.add([]), RefusedError),
        (lambda door: door.add1("Knocked", {"times": "many"}), ProtocolError),
        (lambda door: door.add1("Knocked"), ProtocolError),
        (lambda door: door.add1("Unlocked", 1), ProtocolError),
    ],
)
async def test_what_a_client_may_not_do_is_answered_and_changes_nothing(
    house: House, call: Any, error: type[Exception]
) -> None:
    await house.mux()
    door = (await house.connect()).source
    before = house.source.time(), house.source.queue_tick
    with pytest.raises(error):
        await call(door)
    assert (house.source.time(), house.source.queue_tick) == before
    assert await door.add1("Unlocked") is EXECUTED  # the connection goes on


async def test_an_observer_sees_everything_and_changes_nothing(house: House) -> None:
    await house.mux()
    door = (await house.connect(role="observer")).source
    with pytest.raises(RefusedError, match="observer"):
        await door.add1("Unlocked")
    house.source.add1("Unlocked")
    await door.when1("Unlocked")


async def test_a_refusal_carries_the_error_that_the_handler_gave(house: House) -> None:
    await house.mux()
    door = (await house.connect()).source

    def refuse(event: Event) -> bool:
        origin_of(event).refuse(JobFailed("nobody at home", error_type="Empty"))
        return False

    house.handlers.may_knock = refuse
    with pytest.raises(JobFailed, match="nobody") as raised:
        await door.add1("Knocked", Knock(1))
    assert raised.value.error_type == "Empty"
    house.handlers.may_knock = lambda event: False
    assert await door.add1("Knocked", Knock(1)) is CANCELED
    with pytest.raises(RefusedError, match="canceled"):
        await door.request(["Knocked"], Knock(1))


async def test_an_error_of_the_client_is_recorded_at_the_source(house: House) -> None:
    await house.mux()
    door = (await house.connect()).source
    await door.add_err(ValueError("on the client"))
    assert house.source.is_(("Exception", "ErrOnClient"))
    assert door.is_(("Exception", "ErrOnClient"))
    await door.when_err()
    assert await door.add_err(None) is EXECUTED
    assert await door.add_err(asyncio.CancelledError()) is EXECUTED


async def test_a_mutation_that_is_queued_is_answered_once_it_ran(house: House) -> None:
    mux = await house.mux()
    client = await house.connect()
    server, door = mux.servers["rc-me"], client.source
    link, talk = client._link, client._conversation
    assert link is not None and talk is not None
    results: list[Any] = []

    class Inside:
        """Has frames arrive amid a transition, as a source that calls others may have it."""

        def HiddenState(self, event: Event) -> None:
            results.extend((door.add1("Unlocked"), door.add1("Open"), door.add1("Closed")))
            server.received(sent_by(link.session))
            assert house.source.not1("Unlocked")

    talk._connection, connection = None, talk._connection  # so that nothing leaves by itself
    house.source.bind(Inside())
    house.source.add1("Hidden")
    talk._connection = connection
    assert [await result for result in results] == [EXECUTED, EXECUTED, EXECUTED]
    assert door.is_(("Unlocked", "Closed")) and door.time() == house.source.time()


async def test_a_wrong_checksum_is_counted_at_both_ends_and_mended(house: House) -> None:
    mux = await house.mux()
    client = await house.connect()
    server, door = mux.servers["rc-me"], client.source
    server.session_now._leader._checksum ^= 5
    house.source.add1("Unlocked")
    house.source.add1("Knocked")
    await door.when(["Unlocked", "Knocked"])
    assert door.time() == house.source.time()
    assert client.machine.tick("MetricSync") == server.machine.tick("MetricSync") == 1
    server.session_now._leader._checksum ^= 5
    assert await door.add1("Open") is EXECUTED
    assert door.is1("Open")
    assert client.machine.tick("MetricSync") == 3


@pytest.mark.parametrize("states", [None, ["Unlocked", "Knocked"]])
async def test_a_source_that_grows_is_followed_as_it_was(
    house: House, states: list[str] | None
) -> None:
    mux = await house.mux()
    client = await house.connect(states=states)
    door = client.source
    house.source.grow({"Ajar": State(require="Unlocked")})
    house.source.add(["Unlocked", "Ajar"])
    await door.when1("Unlocked")
    assert not door.has("Ajar")
    mux.servers["rc-me"].session_now._leader._checksum ^= 5
    assert await door.add1("Knocked", Knock(3)) is EXECUTED  # mended by a snapshot
    assert await door.add1("Unlocked") is EXECUTED
    assert client.machine.tick("MetricSync")
    late = (await house.connect(id="rc-you", secret=b"another")).source
    assert late.is_(["Unlocked", "Ajar"])
    with pytest.raises(RefusedError):
        await late.remove1("Ajar")
    house.source.remove1("Ajar")
    await late.when_not1("Ajar")
    assert await late.add1("Unlocked") is EXECUTED


async def test_a_source_may_grow_before_its_mux_starts(house: House) -> None:
    mux = await house.mux()
    await mux.stop()
    house.source.grow({"Ajar": State(require="Unlocked")})
    await mux.start()
    door = (await house.connect()).source
    with pytest.raises(RefusedError, match="State Ajar is closed"):
        await door.add1("Ajar")
    assert await door.add1("Unlocked") is EXECUTED


async def test_a_tracer_of_the_replica_that_raises_is_dropped(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await house.mux()
    door = (await house.connect()).source

    class Bad:
        def transition_end(self, update: Any) -> None:
            raise ValueError("tracer")

    door.trace(Bad())
    assert await door.add1("Unlocked") is EXECUTED
    assert await door.add1("Open") is EXECUTED
    assert caplog.text.count("was dropped") == 1


# -- deferred answers --------------------------------------------------------------------


class Desk:
    """Keeps the answers back that are to be given later."""

    def __init__(self, house: House) -> None:
        self.kept: list[Deferred] = []
        self.cancelled: list[int] = []
        self.came = asyncio.Event()
        house.handlers.on_work = self.keep

    def keep(self, event: Event) -> None:
        origin = origin_of(event)
        deferred, number = origin.defer(), len(self.kept)
        assert origin.defer() is deferred
        deferred.on_cancel(lambda: self.cancelled.append(number))
        self.kept.append(deferred)
        self.came.set()


async def test_a_deferred_answer_comes_later_with_a_value_and_others_pass_it(
    house: House,
) -> None:
    await house.mux()
    door = (await house.connect()).source
    desk = Desk(house)
    slow = door.request(["Work"], result_type=dict[str, int])
    quick = door.add1("Unlocked")
    assert await quick is EXECUTED
    assert not slow.result.done and door.is1("Work")
    house.source.add1("Hidden")
    desk.kept[0].answer({"n": 42})
    assert await slow == {"n": 42}
    assert door.is1("Hidden")
    desk.kept[0].answer("again")
    desk.kept[0].fail(RpcError("again"))
    assert await door.add1("Open") is EXECUTED
    assert desk.cancelled == []


async def test_a_deferred_answer_may_fail(house: House) -> None:
    await house.mux()
    door = (await house.connect()).source
    desk = Desk(house)
    call = door.request(["Work"])
    await desk.came.wait()
    desk.kept[0].fail(JobFailed("boom", error_type="ValueError", traceback="line 1"))
    with pytest.raises(JobFailed, match="boom") as raised:
        await call
    assert raised.value.traceback == "line 1"


async def test_an_answer_that_is_given_inside_the_mutation_waits_for_its_end(
    house: House,
) -> None:
    await house.mux()
    door = (await house.connect()).source

    def answer(event: Event) -> None:
        origin_of(event).defer().answer([1, 2])
        house.source.add1("Hidden")  # queued, runs before the answer

    house.handlers.on_work = answer
    assert await door.request(["Work"], result_type=list[int]) == [1, 2]
    assert door.is_(("Work", "Hidden"))


async def test_a_deferral_ends_at_once_if_the_mutation_is_canceled(house: House) -> None:
    await house.mux()
    door = (await house.connect()).source
    desk = Desk(house)

    def defer_and_refuse(event: Event) -> bool:
        desk.keep(event)
        return False

    house.handlers.may_knock = defer_and_refuse
    assert await door.add1("Knocked", Knock(1)) is CANCELED
    assert desk.kept[0].done and desk.kept[0].cancelled and desk.cancelled == [0]

    def fail_and_refuse(event: Event) -> bool:
        desk.keep(event)
        desk.kept[-1].fail(JobFailed("first"))
        return False

    house.handlers.may_knock = fail_and_refuse
    with pytest.raises(JobFailed, match="first"):
        await door.add1("Knocked", Knock(1))


async def test_deferring_after_the_mutation_ran_is_an_error(house: House) -> None:
    await house.mux()
    door = (await house.connect()).source
    origins: list[Origin] = []
    house.handlers.on_work = lambda event: origins.append(origin_of(event))
    await door.add1("Work")
    with pytest.raises(RpcError, match="Too late"):
        origins[0].defer()


async def test_cancelling_the_await_tells_the_handler_once(house: House) -> None:
    await house.mux()
    door = (await house.connect()).source
    desk = Desk(house)
    task = asyncio.ensure_future(door.request(["Work"], result_type=int))
    await desk.came.wait()
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert await door.add1("Unlocked") is EXECUTED  # sent after the cancel
    assert desk.cancelled == [0] and desk.kept[0].cancelled
    desk.kept[0].answer(1)
    late: list[str] = []
    desk.kept[0].on_cancel(lambda: late.append("at once"))
    assert late == ["at once"]


async def test_only_the_last_of_two_that_await_cancels(house: House) -> None:
    await house.mux()
    door = (await house.connect()).source
    desk = Desk(house)
    result = door.add1("Work")

    async def wait() -> Any:
        return await result

    one, two = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
    await desk.came.wait()
    one.cancel()
    await asyncio.wait((one,))
    await door.add1("Unlocked")
    assert desk.cancelled == []
    desk.kept[0].answer()
    assert await two is EXECUTED


async def test_a_lost_connection_cancels_what_is_deferred_once(house: House) -> None:
    mux = await house.mux()
    client = await house.connect()
    desk = Desk(house)
    call = client.source.request(["Work"])
    await desk.came.wait()
    server = mux.servers["rc-me"]
    await client.stop()
    await house.gone.wait()
    assert desk.cancelled == [0]
    desk.kept[0].answer("nobody hears it")
    assert not server.is_open
    with pytest.raises(ConnectionLost):
        await call


async def test_a_cancel_callback_that_raises_stops_nothing(house: House) -> None:
    mux = await house.mux()
    client = await house.connect()
    desk = Desk(house)

    def fail() -> None:
        raise ValueError("in a callback")

    client.source.add1("Work")
    await desk.came.wait()
    desk.kept[0].on_cancel(fail)
    server = mux.servers["rc-me"]
    await client.stop()
    await house.gone.wait()
    assert isinstance(server.machine.err, ValueError)
    assert desk.cancelled == [0]


async def test_a_value_that_cannot_cross_is_an_error_at_both_ends(house: House) -> None:
    await house.mux(options=RpcOptions(body_limit=4096))
    door = (await house.connect()).source
    desk = Desk(house)
    for number, value in enumerate((object(), b"x" * 5000)):
        call = door.request(["Work"])
        await door.add1("Unlocked")
        with pytest.raises(DeliveryError):
            desk.kept[number].answer(value)
        with pytest.raises(DeliveryError):
            await call


async def test_a_value_of_another_type_is_an_error_of_the_call(house: House) -> None:
    await house.mux()
    door = (await house.connect()).source
    house.handlers.on_work = lambda event: origin_of(event).defer().answer("text")
    with pytest.raises(DeliveryError, match="expected"):
        await door.request(["Work"], result_type=int)
    raw = await door.request(["Work"])
    assert msgspec.msgpack.decode(raw) == "text"


# -- payloads ----------------------------------------------------------------------------


async def test_payloads_come_in_order_with_the_states(house: House) -> None:
    mux = await house.mux()
    consumer = Machine(ConsumerStates, id="consumer")
    got: list[tuple[str, Any, int]] = []
    both = asyncio.Event()

    class Take:
        def ServerPayloadState(self, event: Event) -> None:
            args: PayloadArgs = event.args
            assert args.source_id == "door"
            got.append(("machine", args.name, 0))

    consumer.bind(Take())

    def take(name: str, data: msgspec.Raw) -> None:
        got.append((name, msgspec.msgpack.decode(data), client.source.tick("Knocked")))
        if len(got) == 4:
            both.set()

    client = await house.connect(consumer=consumer, on_payload=take)
    server = mux.servers["rc-me"]
    house.source.add1("Knocked")
    server.send_payload("one", {"a": [1, b"x"]})
    house.source.add1("Knocked")
    server.send_payload("two", Knock(2))
    await both.wait()
    assert got == [
        ("machine", "one", 0),
        ("one", {"a": [1, b"x"]}, 1),
        ("machine", "two", 0),
        ("two", {"times": 2}, 3),
    ]
    assert client.machine.tick("ServerPayload") == 3
    await consumer.dispose()


async def test_a_payload_that_cannot_be_sent_is_an_error_that_says_why(house: House) -> None:
    mux = await house.mux(options=RpcOptions(body_limit=4096))
    client = await house.connect()
    server = mux.servers["rc-me"]
    with pytest.raises(DeliveryError, match="body_limit"):
        server.send_payload("big", b"x" * 5000)
    with pytest.raises(DeliveryError, match="cannot be encoded"):
        server.send_payload("odd", object())
    assert server.machine.is_(("ErrSendPayload", "Ready"))
    assert await client.source.add1("Unlocked") is EXECUTED
    await client.stop()
    await house.gone.wait()
    with pytest.raises(ConnectionLost):
        server.send_payload("late", 1)


async def test_a_payload_handler_that_raises_is_recorded_and_stops_nothing(
    house: House,
) -> None:
    mux = await house.mux()

    def fail(name: str, data: msgspec.Raw) -> None:
        raise ValueError(name)

    client = await house.connect(on_payload=fail)
    mux.servers["rc-me"].send_payload("bad")
    await client.machine.when1("ErrDelivery")
    assert str(client.machine.err) == "bad"
    assert await client.source.add1("Unlocked") is EXECUTED


# -- waits and the end -------------------------------------------------------------------


async def test_waits_and_contexts_run_on_the_replica(house: House) -> None:
    await house.mux()
    door = (await house.connect()).source
    changes: list[tuple[int, ...]] = []

    class Tracer:
        def transition_end(self, update: Any) -> None:
            assert update.machine is door
            changes.append(update.changed)

    tracer = Tracer()
    door.trace(tracer)
    context = door.state_ctx("Unlocked")
    waits = [
        door.when(["Unlocked", "Open"]),
        door.when_not(["Closed"]),
        door.when_time(["Knocked"], [3]),
    ]
    house.source.add1("Unlocked")
    house.source.add1("Open")
    await waits[0]
    await waits[1]
    assert not context.valid
    assert not waits[2].done()
    house.source.add1("Knocked")
    house.source.add1("Knocked")
    await waits[2]
    assert changes == [(0, 1), (3,)]
    door.untrace(tracer)


async def test_a_closed_connection_ends_everything_once(house: House) -> None:
    mux = await house.mux()
    lost: list[Exception] = []
    client = await house.connect(on_lost=lost.append)
    door = client.source
    Desk(house)
    pending = [door.add1("Work"), door.add1("Work")]
    wait, context = door.when1("Hidden"), door.state_ctx("Unlocked")
    ended = asyncio.ensure_future(context.ended())
    await door.when1("Work")
    mux.servers["rc-me"].close("enough")
    with pytest.raises(ConnectionLost, match="enough"):
        await wait
    await ended
    for result in (*pending, door.add1("Unlocked"), door.remove(["Unlocked"])):
        with pytest.raises(ConnectionLost):
            await result
        assert not result
    with pytest.raises(ConnectionLost):
        await door.when1("Open")
    await door.when1("Work")  # it is true, and stays so
    assert door.is1("Work") and isinstance(door.lost, ConnectionLost)
    assert [type(error) for error in lost] == [ConnectionLost]
    assert client.machine.is_(("ErrNetwork", "Exception", "Disconnected"))
    assert client.machine.not_(("Start", "Connected", "Ready"))
    await client.start()  # which clears the errors
    assert client.machine.is1("Ready") and client.machine.not1("ErrNetwork")
    assert len(lost) == 1


async def test_a_connection_that_the_server_cuts_is_an_error_of_the_client(
    house: House,
) -> None:
    mux = await house.mux()
    lost: list[Exception] = []
    client = await house.connect(on_lost=lost.append, options=ONE_CONNECTION)
    server = mux.servers["rc-me"]
    wait = client.source.when1("Hidden")
    server.abort()
    with pytest.raises(ConnectionLost, match="cut"):
        await wait
    await house.gone.wait()
    assert len(lost) == 1
    assert isinstance(client.machine.err, ConnectionLost)
    assert house.disconnected == [("rc-me", "the connection was cut here")]


async def test_on_lost_that_raises_is_recorded(house: House) -> None:
    mux = await house.mux()

    def fail(error: Exception) -> None:
        raise ValueError("in on_lost")

    client = await house.connect(on_lost=fail)
    mux.servers["rc-me"].close("bye")
    await client.machine.when1("Exception")
    await client.machine.when1("Disconnected")
    assert str(client.machine.err) == "in on_lost"


async def test_stop_is_no_loss(house: House) -> None:
    await house.mux()
    lost: list[Exception] = []
    client = await house.connect(on_lost=lost.append)
    wait = client.source.when1("Hidden")
    await client.stop()
    with pytest.raises(ConnectionLost, match="closed here"):
        await wait
    assert lost == [] and not client.machine.is_err


async def test_stopping_the_mux_tells_the_clients(house: House) -> None:
    mux = await house.mux()
    lost: list[Exception] = []
    client = await house.connect(on_lost=lost.append)
    wait = client.source.when1("Hidden")
    await mux.stop()
    with pytest.raises(ConnectionLost, match="the server stops"):
        await wait
    assert house.disconnected == [("rc-me", "the server stops")]
    with pytest.raises(ConnectionLost, match="Nobody"):
        await client.start()


# -- who may come in ---------------------------------------------------------------------


async def test_wrong_secret_and_unknown_id_are_told_the_same(house: House) -> None:
    mux = await house.mux()
    texts: set[str] = set()
    for options in ({"secret": b"wrong"}, {"id": "rc-nobody"}):
        client = house.client(**options)
        with pytest.raises(AuthError) as raised:
            await client.start()
        texts.add(str(raised.value))
        assert client.machine.is_(("ErrRpc", "ConnRetryFailed", "Disconnected"))
        assert client.machine.not1("Start")
    assert len(texts) == 1 and not mux.servers and not house.connected
    assert mux.machine.is1("Ready")
    await house.connect()


async def test_a_second_connection_of_a_client_is_refused_with_a_reason(house: House) -> None:
    mux = await house.mux()
    first = await house.connect()
    with pytest.raises(RefusedError, match="connected already"):
        await house.connect()
    assert await first.source.add1("Unlocked") is EXECUTED
    await house.connect(id="rc-you", secret=b"another")
    assert list(mux.servers) == ["rc-me", "rc-you"]


async def test_with_replace_the_newer_connection_ends_the_older(house: House) -> None:
    mux = await house.mux(replace=True)
    lost: list[Exception] = []
    first = await house.connect(on_lost=lost.append)
    second = await house.connect()
    await first.machine.when1("Disconnected")
    assert "newer connection" in str(lost[0])
    assert await second.source.add1("Unlocked") is EXECUTED
    assert [who for who, _ in house.disconnected] == ["rc-me"]
    assert list(mux.servers) == ["rc-me"]


async def test_admit_is_asked_last_and_may_refuse(house: House) -> None:
    asked: list[tuple[str, str]] = []

    def admit(server: RpcServer) -> str | None:
        asked.append((server.client_id, server.role))
        return "painting" if server.client_id == "rc-me" else None

    mux = await house.mux(admit=admit)
    with pytest.raises(RefusedError, match="painting"):
        await house.connect()
    with pytest.raises(AuthError):
        await house.connect(id="rc-you", secret=b"wrong")
    await house.connect(id="rc-you", secret=b"another", role="observer")
    assert asked == [("rc-me", "controller"), ("rc-you", "observer")]
    assert list(mux.servers) == ["rc-you"]
    assert house.disconnected == []


async def test_a_callback_that_raises_ends_that_connection_and_tells_nothing(
    house: House,
) -> None:
    def admit(server: RpcServer) -> str | None:
        raise ValueError("a secret detail")

    mux = await house.mux(admit=admit)
    with pytest.raises(RpcError) as raised:
        await house.connect()
    assert "detail" not in str(raised.value)
    assert mux.machine.is1("Ready")


async def test_schemas_that_do_not_fit_are_a_clear_error(house: House) -> None:
    await house.mux()
    await (await house.connect(schema=Door)).stop()
    client = house.client(schema=Schema({"Unlocked": State(auto=True)}))
    with pytest.raises(SchemaError, match="Unlocked differs in auto"):
        await client.start()
    with pytest.raises(StateUnknownError, match="Unlocked"):
        await house.client(states=["Unlockd"]).start()


# -- selected states ---------------------------------------------------------------------


async def test_a_replica_of_selected_states_knows_those_and_what_they_require(
    house: House,
) -> None:
    await house.mux()
    house.source.add(["Unlocked", "Knocked"])
    door = (await house.connect(states=["Open", "Knocked"])).source
    assert door.is1("Knocked") and door.not1("Open")
    for read in (
        lambda: door.is1("Unlocked"),
        lambda: door.tick("Unlocked"),
        lambda: door.not_(["Hidden"]),
        lambda: door.any1("Hidden"),
        lambda: door.when1("Unlocked"),
        lambda: door.when(["Open", "Hidden"]),
        lambda: door.when_not1("Unlocked"),
        lambda: door.state_ctx("Hidden"),
        lambda: door.when_err(),
    ):
        with pytest.raises(NotSyncedError):
            read()
    house.source.add1("Open")
    await door.when1("Open")
    assert door.is1("Unlocked") and door.is_(["Unlocked", "Open"])
    assert door.any_(["Unlocked"]) and door.any1("Unlocked") and not door.not1("Unlocked")
    with pytest.raises(NotSyncedError):
        door.tick("Unlocked")
    assert door.clock() == {"Open": 1, "Knocked": 1} and door.time() == (1, 1)
    assert door.has("Hidden") and door.active_states() == ["Knocked", "Open"]
    assert door.inspect().splitlines() == ["| Open 1", "| Knocked 1"]
    # What is not followed is not sent.
    before = door.queue_tick
    house.source.add1("Hidden")
    assert await door.remove1("Open") is EXECUTED
    assert door.queue_tick == house.source.queue_tick > before
    with pytest.raises(NotSyncedError):
        door.is1("Unlocked")


# -- time-outs, limits, cancellation -----------------------------------------------------


class Mute:
    """A handler that takes everything and says nothing."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.got = b""

    def connected(self, connection: Any) -> None:
        self.connection = connection

    def received(self, data: bytes) -> None:
        self.got += data

    def sink(self) -> None:
        pass

    def sunk(self, count: int) -> None:
        pass

    def outgoing(self) -> bytes:
        return b""

    def lost(self, error: Exception | None) -> None:
        self.ended.set()


async def test_a_server_that_says_nothing_is_a_timeout(house: House) -> None:
    mutes: list[Mute] = []

    def accept() -> Mute:
        mutes.append(Mute())
        return mutes[-1]

    listener = await house.transport.listen(house.address, accept, close_timeout=1)
    client = house.client(options=RpcOptions(handshake_timeout=0.02))
    with pytest.raises(RpcTimeoutError, match="did not shake hands"):
        await client.start()
    assert client.machine.is_(("ErrNetworkTimeout", "Disconnected"))
    listener.close()
    await mutes[0].ended.wait()


async def test_a_client_that_says_nothing_is_ended_by_the_deadline(house: House) -> None:
    mux = await house.mux(options=RpcOptions(handshake_timeout=0.02))
    mute = Mute()
    await house.transport.connect(house.address, mute, close_timeout=1)
    await mute.ended.wait()
    assert b"RpcTimeoutError" in mute.got
    assert mux.machine.is1("Ready") and not mux.servers


async def test_past_the_limit_of_pending_connections_the_oldest_is_turned_away(
    house: House,
) -> None:
    mux = await house.mux(options=RpcOptions(pending_limit=2))
    mutes = [Mute() for _ in range(3)]
    for mute in mutes:
        await house.transport.connect(house.address, mute, close_timeout=1)
    await mutes[0].ended.wait()
    assert b"RefusedError" in mutes[0].got
    assert mux.machine.is_(("NewServerErr", "Ready"))
    await house.connect()  # the limit is reached, and an honest client gets in
    assert mux.machine.not1("NewServerErr")
    await mutes[1].ended.wait()
    assert not mutes[2].ended.is_set()
    mutes[2].connection.close()
    await mutes[2].ended.wait()


async def test_an_address_that_is_taken_is_recorded_and_raised(house: House) -> None:
    await house.mux()
    with pytest.raises(ConnectionLost):
        await house.mux(name="second")
    machine = house.muxes[1].machine
    assert machine.is_(("ErrNetwork", "Exception")) and machine.not1("Start")
    await house.muxes[0].stop()
    await house.muxes[1].start()
    assert machine.is1("Ready")


async def test_a_start_that_is_cancelled_at_any_turn_leaves_nothing(house: House) -> None:
    mux = await house.mux()
    done = False
    for turns in range(60):
        client = house.client()
        task = asyncio.ensure_future(client.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        done = not task.cancelled()
        if done:
            assert client.machine.is1("Ready")
        else:
            assert client.machine.not_(("Start", "Connected", "Handshaking", "Ready"))
            assert not client.machine.is_err
        await client.stop()
        if done:
            break
    assert done
    while mux.servers:
        house.gone.clear()
        await house.gone.wait()
    client = await house.connect()
    assert await client.source.add1("Unlocked") is EXECUTED


async def test_a_start_that_is_stopped_meanwhile_fails_and_leaves_nothing(house: House) -> None:
    await house.mux()
    for turns in range(12):
        client = house.client()
        task = asyncio.ensure_future(client.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.stop()
        await asyncio.wait((task,))
        assert task.exception() is None or isinstance(task.exception(), ConnectionLost)
        await client.stop()
        assert (
            client.machine.not_(("Start", "Connected", "Ready")) and not client.machine.is_err
        )
        house.gone.clear()
    await house.muxes[0].stop()


async def test_a_mux_whose_start_is_cancelled_or_stopped_leaves_nothing(house: House) -> None:
    for end in ("cancel", "stop"):
        for turns in range(6):
            mux = Mux(house.source, house.address, name="m", secret_of=lambda *_: None)
            house.muxes.append(mux)
            task = asyncio.ensure_future(mux.start())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel() if end == "cancel" else await mux.stop()
            await asyncio.wait((task,))
            await mux.stop()
            assert not mux.machine.active_states()
    await house.mux()  # the address is free


async def test_a_fault_on_the_client_ends_the_connection_and_is_recorded(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.mux()
    lost: list[Exception] = []
    client = await house.connect(on_lost=lost.append)

    def fail(pairs: Any) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(client.source, "advance", fail)
    with pytest.raises(ConnectionLost, match="a fault"):
        await client.source.add1("Unlocked")
    assert isinstance(client.machine.err, ZeroDivisionError) and len(lost) == 1
    await house.gone.wait()


async def test_a_disposed_source_cancels_mutations(house: House) -> None:
    await house.mux()
    door = (await house.connect()).source
    await house.source.dispose()
    assert await door.add1("Unlocked") is CANCELED


async def test_the_machine_of_a_server_ends_with_its_connection(house: House) -> None:
    mux = await house.mux()
    client = await house.connect()
    machine = mux.servers["rc-me"].machine
    wait = machine.when1("MetricSync")
    await client.stop()
    with pytest.raises(MachineDisposedError):
        await wait


async def test_secrets_appear_in_no_repr_and_no_log(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    mux = await house.mux()
    client = await house.connect()
    with pytest.raises(AuthError):
        await house.connect(id="rc-you", secret=b"canary-secret")
    shown = [repr(x) for x in (mux, client, client.source, mux.servers, mux.machine)]
    shown += [str(error) for error in (house.clients[1].machine.err, caplog.text)]
    for text in shown:
        assert "secret that" not in text and "canary" not in text
