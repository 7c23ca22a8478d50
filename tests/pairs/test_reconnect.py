"""A connection that is cut: what goes on, what is lost, and who says so."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import msgspec
import pytest

from amnode.errors import AuthError, ConnectionLost, Outcome, RpcError
from amnode.machine.machine import Machine
from amnode.machine.queue import CANCELED, EXECUTED
from amnode.machine.schema import Schema, State
from amnode.machine.transition import Event
from amnode.rpc.client import RpcClient
from amnode.rpc.options import RpcOptions
from amnode.rpc.origin import Origin
from amnode.rpc.server import RpcServer
from tests.pairs.driven import EAGER, Door, House, Knock
from tests.pairs.driven import line as line  # fixtures
from tests.pairs.driven import tcp as tcp


def origin_of(event: Event) -> Origin:
    origin = event.mutation.origin
    assert isinstance(origin, Origin)
    return origin


def eager(**options: Any) -> RpcOptions:
    return msgspec.structs.replace(EAGER, **options)


async def cut(house: House, client: RpcClient) -> None:
    """Cuts the connection, and has nobody let in until `refusing` is False again."""
    assert house.proxy is not None
    house.proxy.refusing = True
    house.proxy.cut()
    await client.machine.when1("RetryingConn")
    await house.until(lambda: client.id in house.cut)


async def back(house: House, client: RpcClient) -> None:
    assert house.proxy is not None
    house.proxy.refusing = False
    await client.machine.when1("Ready")


# -- what goes on ------------------------------------------------------------------------


async def test_a_replica_goes_on_over_a_cut(line: House) -> None:
    mux = await line.mux()
    await line.behind_proxy()
    lost: list[Exception] = []
    client = await line.connect(options=EAGER, on_lost=lost.append)
    door, server = client.source, mux.servers["rc-me"]
    await door.add1("Unlocked")
    context = door.state_ctx("Unlocked")
    wait, tick = door.when1("Open"), door.when_time(["Knocked"], [3])
    await cut(line, client)
    assert server.is_open and not server.is_connected
    assert server.machine.is_(("ErrNetwork", "Start", "RpcReady"))
    assert server.machine.not_(("ClientConnected", "HandshakeDone", "Ready"))
    assert client.machine.not_(("Connected", "HandshakeDone", "Ready"))
    assert client.machine.is1("Start")
    line.source.add1("Open")  # while nobody can see it
    assert door.is1("Unlocked") and door.not1("Open")
    assert context.valid and not wait.done()
    await back(line, client)
    await wait
    assert client.source is door and mux.servers["rc-me"] is server
    assert door.clock() == line.source.clock()
    assert context.valid
    line.source.add1("Knocked")
    line.source.add1("Knocked")
    await tick
    assert client.machine.not_(("RetryingConn", "RetryingCall", "ErrNetwork", "Exception"))
    assert server.machine.is_(("ClientConnected", "HandshakeDone", "Ready"))
    assert server.machine.not_(("ErrNetwork", "Exception"))
    assert (line.cut, line.resumed) == (["rc-me"], ["rc-me"])
    assert line.connected == ["rc-me"] and lost == [] and line.disconnected == []


async def test_a_context_whose_state_ended_and_came_back_meanwhile_is_over(
    line: House,
) -> None:
    await line.mux()
    await line.behind_proxy()
    client = await line.connect(options=EAGER)
    door = client.source
    await door.add1("Unlocked")
    context = door.state_ctx("Unlocked")
    await cut(line, client)
    line.source.remove1("Unlocked")
    line.source.add1("Unlocked")
    await back(line, client)
    await context.ended()
    assert door.is1("Unlocked")


async def test_shallow_ticks_never_fall_over_a_cut(line: House) -> None:
    await line.mux()
    await line.behind_proxy()
    client = await line.connect(options=EAGER, shallow=True)
    door = client.source
    for change in ("add1", "remove1", "add1"):
        assert await getattr(door, change)("Unlocked") is EXECUTED
    await door.add1("Closed")
    context = door.state_ctx("Unlocked")
    assert door.tick("Unlocked") == 3
    await cut(line, client)
    line.source.add1("Open")  # which removes Closed
    await back(line, client)
    await door.when1("Open")
    assert door.clock(["Unlocked", "Open", "Closed"]) == {"Unlocked": 3, "Open": 1, "Closed": 2}
    assert context.valid
    await door.remove1("Unlocked")
    assert door.tick("Unlocked") == 4 and not context.valid


async def test_what_was_called_while_cut_runs_once_and_in_order_afterwards(
    line: House,
) -> None:
    await line.mux()
    await line.behind_proxy()
    client = await line.connect(options=EAGER)
    door = client.source
    await cut(line, client)
    results = [door.add1("Knocked", Knock(number)) for number in range(5)]
    taken_back = asyncio.ensure_future(_await(door.add1("Knocked", Knock(99))))
    await asyncio.sleep(0)
    taken_back.cancel()
    await asyncio.wait((taken_back,))
    await client.machine.when1("RetryingCall")
    assert line.handlers.seen == [] and not results[0].done
    await back(line, client)
    assert [await result for result in results] == [EXECUTED] * 5
    assert [args.times for _, args in line.handlers.seen] == [0, 1, 2, 3, 4]
    assert client.machine.not1("RetryingCall")


async def _await(result: Any) -> Any:
    return await result


async def test_what_ran_and_was_not_answered_is_not_run_again(line: House) -> None:
    await line.mux()
    proxy = await line.behind_proxy()
    client = await line.connect(options=EAGER)
    door = client.source
    came = asyncio.Event()

    def cut_it(event: Event) -> None:
        came.set()
        proxy.refusing = True
        proxy.cut()
        origin_of(event).defer().answer(7)

    line.handlers.on_work = cut_it
    call = door.request(["Work"], result_type=int)
    await came.wait()
    await client.machine.when1("RetryingConn")
    knocks = line.source.tick("Work")
    await back(line, client)
    assert await call == 7
    assert line.source.tick("Work") == knocks
    assert await door.add1("Unlocked") is EXECUTED


async def test_a_deferred_answer_that_is_given_while_cut_arrives(line: House) -> None:
    await line.mux()
    await line.behind_proxy()
    client = await line.connect(options=EAGER)
    kept: list[Any] = []

    def keep(event: Event) -> None:
        kept.append(origin_of(event).defer())

    line.handlers.on_work = keep
    first = client.source.request(["Work"], result_type=str)
    second = asyncio.ensure_future(_await(client.source.request(["Work"])))
    await client.source.add1("Unlocked")
    await cut(line, client)
    kept[0].answer("done meanwhile")
    assert not kept[1].cancelled
    second.cancel()
    await asyncio.wait((second,))
    await back(line, client)
    assert await first == "done meanwhile"
    assert await client.source.add1("Open") is EXECUTED  # behind the cancel
    assert kept[1].cancelled


async def test_payloads_that_are_sent_while_cut_arrive_once_and_in_order(line: House) -> None:
    mux = await line.mux()
    await line.behind_proxy()
    got: list[int] = []
    arrived = asyncio.Event()

    def take(_name: str, data: msgspec.Raw) -> None:
        got.append(msgspec.msgpack.decode(data))
        if got[-1] == 5:
            arrived.set()

    client = await line.connect(options=EAGER, on_payload=take)
    server = mux.servers["rc-me"]
    await server.deliver("before", 0)
    await cut(line, client)
    for number in range(1, 5):
        server.send_payload("meanwhile", number)
    last = asyncio.ensure_future(server.deliver("last", 5))
    await back(line, client)
    await last
    await arrived.wait()
    assert got == [0, 1, 2, 3, 4, 5]


# -- what is lost ------------------------------------------------------------------------


async def test_calls_of_a_session_that_expired_say_what_is_known(line: House) -> None:
    mux = await line.mux(options=RpcOptions(session_ttl=0.001))
    await line.behind_proxy()
    lost: list[Exception] = []
    client = await line.connect(options=EAGER, on_lost=lost.append)
    door = client.source
    deferred: list[Any] = []
    line.handlers.on_work = lambda event: deferred.append(origin_of(event).defer())
    sent = door.add1("Work")
    wait = door.when1("Open")
    await door.add1("Unlocked")
    first = mux.servers["rc-me"]
    await cut(line, client)
    not_sent = door.add1("Hidden")
    await line.until(lambda: line.disconnected)
    assert deferred[0].cancelled
    given_up = client.machine.tick("CallRetryFailed")
    await back(line, client)
    for result, outcome in ((sent, Outcome.UNKNOWN), (not_sent, Outcome.NOT_RUN)):
        with pytest.raises(ConnectionLost) as raised:
            await result
        assert raised.value.outcome is outcome
    assert client.machine.tick("CallRetryFailed") == given_up + 2
    assert client.machine.not_(("CallRetryFailed", "ErrNetwork", "Exception"))
    assert client.source is door and door.clock() == line.source.clock()
    assert mux.servers["rc-me"] is not first
    assert await door.add1("Open") is EXECUTED
    await wait
    assert lost == [] and line.source.not1("Hidden")


async def test_a_restarted_source_is_another_machine(line: House) -> None:
    mux = await line.mux()
    proxy = await line.behind_proxy()
    client = await line.connect(options=EAGER)
    door = client.source
    await door.add1("Unlocked")
    context, idle = door.state_ctx("Unlocked"), door.state_ctx("Hidden")
    state, tick = door.when1("Open"), door.when_time(["Knocked"], [8])
    told: list[tuple[int, ...]] = []

    class Tracer:
        def transition_end(self, transition: Any) -> None:
            told.append(transition.changed)

    tracer = Tracer()
    door.trace(tracer)
    await cut(line, client)
    await mux.stop()
    other = House(mux.address)
    other.source = Machine(Door, id="door-2")
    try:
        other.source.add(["Knocked", "Hidden"])
        await other.mux()
        proxy.target = other.address
        await back(line, client)
        assert door.source_id == "door-2" and client.source is door
        assert not context.valid and not idle.valid
        with pytest.raises(ConnectionLost, match="restarted"):
            await tick
        assert not state.done()
        assert door.clock() == other.source.clock() and door.is_(["Knocked", "Hidden"])
        assert told
        other.source.add(["Unlocked"])
        other.source.add(["Open"])
        await state
        door.untrace(tracer)
        await client.stop()
    finally:
        await other.close()


async def test_a_source_with_other_states_ends_the_client(line: House) -> None:
    mux = await line.mux()
    proxy = await line.behind_proxy()
    lost: list[Exception] = []
    client = await line.connect(options=EAGER, on_lost=lost.append)
    wait = client.source.when1("Open")
    await cut(line, client)
    await mux.stop()
    other = House(mux.address)
    other.source = Machine(Schema({"Lit": State()}), id="lamp")
    try:
        await other.mux(exposure=None)
        proxy.target = other.address
        proxy.refusing = False
        with pytest.raises(ConnectionLost, match="other states"):
            await wait
        assert len(lost) == 1 and client.machine.is_(("ConnRetryFailed", "Disconnected"))
        assert client.machine.not_(("Start", "RetryingConn"))
    finally:
        await client.stop()
        await other.close()


async def test_a_client_gives_up_after_its_tries(line: House) -> None:
    await line.mux()
    proxy = await line.behind_proxy()
    lost: list[Exception] = []
    options = eager(reconnect_tries=3)
    client = await line.connect(options=options, on_lost=lost.append)
    door = client.source
    wait, sent = door.when1("Open"), door.add1("Unlocked")
    await sent
    before = proxy.accepted
    proxy.refusing = True
    proxy.cut()
    await client.machine.when1("RetryingConn")
    not_sent = door.add1("Hidden")
    with pytest.raises(ConnectionLost, match="3 attempts"):
        await wait
    with pytest.raises(ConnectionLost) as raised:
        await not_sent
    assert raised.value.outcome is Outcome.NOT_RUN
    assert proxy.accepted == before + 3 and len(lost) == 1
    assert client.machine.is_(("ConnRetryFailed", "Disconnected", "ErrNetwork", "Exception"))
    assert client.machine.not_(("Start", "RetryingConn", "RetryingCall", "Connecting"))
    assert client.machine.tick("CallRetryFailed") == 2
    proxy.refusing = False
    await client.start()
    assert client.machine.is1("Ready") and client.machine.not1("ConnRetryFailed")
    assert await client.source.add1("Open") is EXECUTED


async def test_a_client_gives_up_after_its_time(line: House) -> None:
    await line.mux()
    proxy = await line.behind_proxy()
    client = await line.connect(options=eager(reconnect_timeout=0.01))
    proxy.refusing = True
    proxy.cut()
    with pytest.raises(ConnectionLost, match="attempts to come back failed"):
        await client.source.when1("Open")
    await client.machine.when1("ConnRetryFailed")


async def test_a_client_gives_up_at_once_where_its_secret_is_not_known_any_more(
    line: House,
) -> None:
    mux = await line.mux(options=RpcOptions(session_ttl=0.001))
    await line.behind_proxy()
    lost: list[Exception] = []
    client = await line.connect(options=EAGER, on_lost=lost.append)
    await cut(line, client)
    await line.until(lambda: line.disconnected)
    line.secrets["rc-me"] = b"another one"
    assert line.proxy is not None
    line.proxy.refusing = False
    with pytest.raises(ConnectionLost):
        await client.source.when1("Open")
    assert isinstance(lost[0].__cause__, AuthError) and len(lost) == 1
    assert client.machine.is_(("ErrRpc", "ConnRetryFailed")) and not mux.servers


async def test_attempts_are_drawn_from_a_bound_that_doubles(
    tcp: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tcp.mux()
    proxy = await tcp.behind_proxy()
    drawn: list[int] = []

    def entropy(size: int) -> bytes:
        drawn.append(size)
        return os.urandom(size) if size > 4 else (0x7FFF_FFFF).to_bytes(4, "little")

    options = RpcOptions(reconnect_base=0.002, reconnect_cap=0.008, reconnect_tries=6)
    client = await tcp.connect(options=options, entropy=entropy)
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(delay: float, result: Any = None) -> Any:
        if asyncio.current_task() is client._returning:
            slept.append(delay)
        return await sleep(0, result)

    monkeypatch.setattr(asyncio, "sleep", note)
    proxy.refusing = True
    proxy.cut()
    with pytest.raises(ConnectionLost, match="6 attempts"):
        await client.source.when1("Open")
    assert slept == pytest.approx([0.001, 0.002, 0.004, 0.004, 0.004, 0.004])
    assert drawn.count(4) == 7


# -- stopping ----------------------------------------------------------------------------


async def test_stop_while_it_tries_to_come_back_ends_everything(line: House) -> None:
    await line.mux()
    await line.behind_proxy()
    lost: list[Exception] = []
    for turns in range(8):
        assert line.proxy is not None
        line.cut.clear()
        line.proxy.refusing = False
        client = await line.connect(options=EAGER, on_lost=lost.append, id="rc-me")
        wait = client.source.when1("Hidden")
        await cut(line, client)
        call = client.source.add1("Unlocked")
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.stop()
        with pytest.raises(ConnectionLost, match="closed here"):
            await wait
        with pytest.raises(ConnectionLost) as raised:
            await call
        assert raised.value.outcome is Outcome.NOT_RUN
        assert client.machine.is1("Disconnected")
        assert client.machine.not_(("Start", "RetryingConn", "RetryingCall", "Connecting"))
        await client.stop()
    assert lost == []


async def test_a_stop_that_is_cancelled_while_it_tries_leaves_a_client_that_can_be_stopped(
    line: House,
) -> None:
    await line.mux()
    await line.behind_proxy()
    client = await line.connect(options=EAGER)
    await cut(line, client)
    task = asyncio.ensure_future(client.stop())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    await client.stop()
    assert client.machine.not_(("Start", "RetryingConn", "Connecting", "Ready"))
    assert line.proxy is not None
    line.proxy.refusing = False
    await client.start()
    assert client.machine.is1("Ready")


async def test_a_client_that_tries_to_come_back_is_started_already(line: House) -> None:
    await line.mux()
    await line.behind_proxy()
    client = await line.connect(options=EAGER)
    await cut(line, client)
    with pytest.raises(RpcError, match="started already"):
        await client.start()


async def test_a_mux_that_stops_ends_the_sessions_that_are_cut(line: House) -> None:
    mux = await line.mux()
    await line.behind_proxy()
    client = await line.connect(options=EAGER)
    deferred: list[Any] = []
    line.handlers.on_work = lambda event: deferred.append(origin_of(event).defer())
    client.source.add1("Work")
    await client.source.add1("Unlocked")
    server = mux.servers["rc-me"]
    await cut(line, client)
    delivery = asyncio.ensure_future(server.deliver("late", 1))
    await asyncio.sleep(0)
    await mux.stop()
    with pytest.raises(ConnectionLost):
        await delivery
    assert deferred[0].cancelled and not mux.servers
    assert line.disconnected == [("rc-me", "the server stops")]
    assert mux.machine.not1("HasClients")


async def test_a_session_that_is_stopped_is_not_resumed(line: House) -> None:
    mux = await line.mux()
    client = await line.connect(options=EAGER)
    await client.stop()
    await line.gone.wait()
    assert not mux.servers and line.cut == []


# -- who comes back ----------------------------------------------------------------------


async def test_a_half_open_connection_is_closed_when_its_session_is_resumed(
    tcp: House,
) -> None:
    mux = await tcp.mux()
    proxy = await tcp.behind_proxy()
    client = await tcp.connect(options=EAGER)
    server = mux.servers["rc-me"]
    old = server._connection
    assert old is not None
    closed_first: list[bool] = []
    abort = type(old).abort

    def note(self: Any) -> None:
        if self is old:
            closed_first.append("rc-me" in tcp.resumed)
        abort(self)

    link = client._link
    assert link is not None and link.connection is not None
    type(old).abort = note  # type: ignore[method-assign]
    try:
        proxy.freeze_these()  # the server does not hear that the client has gone
        link.connection.abort()
        await client.machine.when1("RetryingConn")
        await client.machine.when1("Ready")
    finally:
        type(old).abort = abort  # type: ignore[method-assign]
    assert mux.servers["rc-me"] is server and server._connection is not old
    assert closed_first == [False] and tcp.resumed == ["rc-me"]
    assert await client.source.add1("Unlocked") is EXECUTED


async def test_another_start_of_a_client_that_was_cut_off_replaces_it(line: House) -> None:
    mux = await line.mux()
    await line.behind_proxy()
    first = await line.connect(options=EAGER)
    old = mux.servers["rc-me"]
    await cut(line, first)
    assert line.proxy is not None
    # The first one cannot come in any more, the second goes round the proxy.
    second = line.client(options=EAGER)
    second._address = line.proxy.target
    await second.start()
    assert mux.servers["rc-me"] is not old and not old.is_open
    assert "newer connection" in line.disconnected[0][1]
    # The first comes back too late: its session is over, and its id is taken for now.
    line.proxy.refusing = False
    await first.machine.when1("ErrRpc")  # refused
    assert first.machine.is_(("RetryingConn", "Disconnected"))
    assert first.machine.not_(("Connected", "Handshaking"))
    assert mux.servers["rc-me"].is_connected and second.machine.is1("Ready")
    await second.stop()
    await first.machine.when1("Ready")


async def test_only_the_client_that_is_allowed_comes_in(line: House) -> None:
    await line.mux(allow_id="rc-you")
    await line.behind_proxy()
    with pytest.raises(AuthError):
        await line.connect()
    you = await line.connect(id="rc-you", secret=b"another", options=EAGER)
    assert line.proxy is not None
    line.proxy.cut()
    await line.until(lambda: line.resumed)
    assert await you.source.add1("Unlocked") is EXECUTED


async def test_callbacks_that_raise_stop_nothing(line: House) -> None:
    def fail(server: RpcServer, reason: str = "") -> None:
        raise ValueError("in a callback")

    mux = await line.mux(on_cut=fail)
    await line.behind_proxy()
    client = await line.connect(options=EAGER)
    server = mux.servers["rc-me"]
    assert line.proxy is not None
    line.proxy.cut()
    await line.until(lambda: line.resumed)
    assert await client.source.add1("Unlocked") is EXECUTED
    assert server.is_connected


async def test_a_hundred_clients_come_back_past_the_limit_of_handshakes(tcp: House) -> None:
    await tcp.mux(
        options=RpcOptions(pending_limit=8),
        secret_of=lambda _id, _role: b"the same",
    )
    proxy = await tcp.behind_proxy()
    options = RpcOptions(reconnect_base=0.02, reconnect_cap=0.5)
    clients = [
        await tcp.connect(id=f"rc-{number}", secret=b"the same", options=options)
        for number in range(100)
    ]
    proxy.cut()
    await tcp.until(lambda: len(set(tcp.resumed)) == 100)
    tcp.source.add1("Unlocked")
    for client in clients:
        await client.source.when1("Unlocked")
    assert tcp.disconnected == []


async def test_a_server_that_remembers_nothing_makes_a_new_session(line: House) -> None:
    mux = await line.mux(options=RpcOptions(session_ttl=0))
    await line.behind_proxy()
    client = await line.connect(options=EAGER)
    first = mux.servers["rc-me"]
    assert line.proxy is not None
    line.proxy.cut()
    await client.machine.when1("RetryingConn")
    await client.machine.when1("Ready")
    assert mux.servers["rc-me"] is not first and line.cut == []
    assert await client.source.add1("Unlocked") is EXECUTED


async def test_an_answer_that_was_evicted_is_lost_and_not_run_again(line: House) -> None:
    await line.mux(options=RpcOptions(answers_kept=1))
    proxy = await line.behind_proxy()
    client = await line.connect(options=EAGER)
    door = client.source
    kept: list[Any] = []
    line.handlers.on_work = lambda event: kept.append(origin_of(event).defer())
    calls = [door.add1("Work") for _ in range(3)]
    await door.add1("Unlocked")
    await cut(line, client)
    for deferred in kept:
        deferred.answer()
    proxy.refusing = False
    ticks = line.source.tick("Work")
    for call in calls[:2]:
        with pytest.raises(ConnectionLost, match="has run, and its answer is lost") as raised:
            await call
        assert raised.value.outcome is Outcome.RUN
    assert await calls[2] is EXECUTED
    assert line.source.tick("Work") == ticks


async def test_a_mutation_that_is_taken_back_before_it_left_is_never_run(line: House) -> None:
    await line.mux()
    await line.behind_proxy()
    client = await line.connect(options=EAGER)
    await cut(line, client)
    result = client.source.add1("Hidden")
    task = asyncio.ensure_future(_await(result))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert result.done and not result and await result is CANCELED
    await back(line, client)
    await client.source.add1("Unlocked")
    assert line.source.not1("Hidden")
