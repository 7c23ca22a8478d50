"""Streams: an async iterator on one side is one on the other, both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from amnode.errors import (
    ConnectionLost,
    DeliveryError,
    JobFailed,
    Outcome,
    RefusedError,
    RpcError,
)
from amnode.machine.queue import EXECUTED
from amnode.machine.transition import Event
from amnode.rpc.client import RpcClient
from amnode.rpc.options import RpcOptions
from amnode.rpc.origin import Origin
from tests.pairs.driven import EAGER, House
from tests.pairs.driven import anywhere as anywhere  # fixtures
from tests.pairs.driven import line as line
from tests.pairs.driven import tcp as tcp
from tests.pairs.session_pair import sent_by

KIB = 1024


def origin_of(event: Event) -> Origin:
    origin = event.mutation.origin
    assert isinstance(origin, Origin)
    return origin


class Source:
    """An async iterator that says how far it was asked, and whether it was closed.

    Args:
        items: what it gives.
        error: what it raises after them.
        endless: whether it waits after them instead.
    """

    def __init__(
        self, items: list[Any], error: Exception | None = None, *, endless: bool = False
    ) -> None:
        self.items = items
        self.error = error
        self.endless = endless
        self.given = 0
        self.closed = asyncio.Event()
        self.moved = asyncio.Event()

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> Any:
        if self.given < len(self.items):
            self.given += 1
            self.moved.set()
            return self.items[self.given - 1]
        if self.error is not None:
            raise self.error
        if self.endless:
            await asyncio.get_running_loop().create_future()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed.set()


def streams(house: House, make: Callable[[], AsyncIterator[Any]]) -> None:
    """Has the door answer Work with a stream."""
    house.handlers.on_work = lambda event: origin_of(event).defer().stream(make())


async def settle(client: RpcClient) -> None:
    """Some round trips: whatever could move has moved."""
    for _ in range(10):
        await client.source.add1("Closed")


# -- from the source -----------------------------------------------------------------------


async def test_items_come_in_order_and_then_the_end(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    source = Source(list(range(5000)))
    streams(anywhere, lambda: source)
    got = [item async for item in client.source.stream(["Work"], item_type=int)]
    assert got == list(range(5000))
    assert source.closed.is_set()


@pytest.mark.parametrize("size", [0, 1, 300 * KIB, 3 * KIB * KIB])
async def test_items_of_any_size_cross(anywhere: House, size: int) -> None:
    await anywhere.mux(options=RpcOptions(stream_credit=64 * KIB))
    client = await anywhere.connect(options=RpcOptions(stream_credit=64 * KIB))
    items = [bytes([n]) * size for n in range(5)]
    streams(anywhere, lambda: Source(items))
    got = [item async for item in client.source.stream(["Work"], item_type=bytes)]
    assert got == items


async def test_a_slow_reader_makes_the_writer_wait(anywhere: House) -> None:
    options = RpcOptions(stream_credit=10 * KIB)
    await anywhere.mux()
    client = await anywhere.connect(options=options)
    source = Source([b"x" * KIB] * 200)
    streams(anywhere, lambda: source)
    stream = client.source.stream(["Work"], item_type=bytes)
    await anext(stream)
    await settle(client)
    assert 9 <= source.given <= 13
    read = 1
    async for _ in stream:
        read += 1
        assert source.given <= read + 14
    assert read == 200


async def test_nothing_is_sent_to_who_does_not_read_beyond_its_window(tcp: House) -> None:
    await tcp.mux()
    client = await tcp.connect(options=RpcOptions(stream_credit=1))
    source = Source([b"x" * KIB] * 10)
    streams(tcp, lambda: source)
    stream = client.source.stream(["Work"], item_type=bytes)
    await settle(client)
    assert source.given == 2  # one has come, and one waits
    assert [len(item) async for item in stream] == [KIB] * 10


async def test_an_exception_of_the_iterator_is_raised_after_its_items(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    for error, expected in (
        (JobFailed("no film"), JobFailed),
        (ValueError("no light"), RpcError),
    ):
        source = Source([1, 2], error)
        streams(anywhere, lambda source=source: source)  # type: ignore[misc]
        got: list[int] = []
        with pytest.raises(expected, match=str(error)):
            async for item in client.source.stream(["Work"], item_type=int):
                got.append(item)
        assert got == [1, 2] and source.closed.is_set()


async def test_a_cancellation_inside_the_iterator_ends_the_stream(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()

    async def items() -> AsyncIterator[int]:
        yield 1
        raise asyncio.CancelledError

    streams(anywhere, items)
    with pytest.raises(RpcError, match="CancelledError"):
        _ = [item async for item in client.source.stream(["Work"])]


async def test_an_item_that_cannot_cross_is_an_error(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    source = Source([1, object()])
    streams(anywhere, lambda: source)
    stream = client.source.stream(["Work"], item_type=int)
    assert await anext(stream) == 1
    with pytest.raises(DeliveryError, match="cannot be encoded"):
        await anext(stream)
    assert source.closed.is_set()


async def test_an_item_of_another_type_ends_the_stream_at_both_ends(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    source = Source(["text"], endless=True)
    streams(anywhere, lambda: source)
    stream = client.source.stream(["Work"], item_type=int)
    with pytest.raises(DeliveryError, match="expected"):
        await anext(stream)
    await source.closed.wait()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_reader_that_stops_closes_the_iterator_at_the_source(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    source = Source([1, 2, 3], endless=True)
    streams(anywhere, lambda: source)
    async with aclosing(client.source.stream(["Work"], item_type=int)) as stream:
        async for item in stream:
            if item == 2:
                break
    await source.closed.wait()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await stream.aclose()  # again
    assert await client.source.add1("Unlocked") is EXECUTED


async def test_the_source_may_end_a_stream_before_its_iterator_does(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    source = Source([1], endless=True)
    kept: list[Any] = []

    def work(event: Event) -> None:
        kept.append(origin_of(event).defer())
        kept[0].stream(source)

    anywhere.handlers.on_work = work
    stream = client.source.stream(["Work"], item_type=int)
    assert await anext(stream) == 1
    kept[0].fail(JobFailed("enough"))
    with pytest.raises(JobFailed, match="enough"):
        await anext(stream)
    await source.closed.wait()


async def test_a_stream_that_is_closed_while_its_call_is_queued_is_never_begun(
    line: House,
) -> None:
    mux = await line.mux()
    client = await line.connect()
    server, door = mux.servers["rc-me"], client.source
    link, talk = client._link, client._conversation
    assert link is not None and talk is not None
    source = Source([1, 2], endless=True)
    kept: list[Any] = []

    def work(event: Event) -> None:
        kept.append(origin_of(event).defer())
        kept[0].stream(source)

    class Inside:
        """Has frames arrive amid a transition, as a source that calls others may have it."""

        def HiddenState(self, event: Event) -> None:
            stream = door.stream(["Work"], item_type=int)
            server.received(sent_by(link.session))
            stream.close()
            server.received(sent_by(link.session))
            assert kept == []

    line.handlers.on_work = work
    line.source.bind(Inside())
    talk._connection, connection = None, talk._connection  # so that nothing leaves by itself
    line.source.add1("Hidden")
    talk._connection = connection
    assert kept[0].cancelled and kept[0].done
    await settle(client)
    assert source.given == 0 and len(talk) == 0


async def test_one_task_reads_a_stream(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    source = Source([], endless=True)
    streams(anywhere, lambda: source)
    stream = client.source.stream(["Work"])
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    with pytest.raises(RpcError, match="one task"):
        await anext(stream)
    first.cancel()
    await asyncio.wait((first,))
    await stream.aclose()
    await source.closed.wait()


async def test_a_reader_that_is_cancelled_may_read_on(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    gate = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        await gate.wait()
        yield 1
        yield 2

    streams(anywhere, items)
    stream = client.source.stream(["Work"], item_type=int)
    task = asyncio.ensure_future(anext(stream))
    await settle(client)
    task.cancel()
    await asyncio.wait((task,))
    gate.set()
    assert [item async for item in stream] == [1, 2]


async def test_a_request_is_not_answered_with_a_stream(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    source = Source([1])
    streams(anywhere, lambda: source)
    with pytest.raises(RpcError, match="reads a stream with `stream`"):
        await client.source.request(["Work"])
    assert source.given == 0


async def test_a_stream_that_gets_a_plain_answer_is_empty(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    assert [item async for item in client.source.stream(["Work"])] == []
    anywhere.handlers.may_knock = lambda event: False
    with pytest.raises(RefusedError):
        _ = [item async for item in client.source.stream(["Hidden"])]


async def test_a_stream_that_is_canceled_by_the_source_is_refused(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    with pytest.raises(RefusedError, match="canceled"):
        _ = [item async for item in client.source.stream(["Open"])]  # requires Unlocked


async def test_states_pass_a_stream(tcp: House) -> None:
    await tcp.mux()
    client = await tcp.connect()
    streams(tcp, lambda: Source([b"x" * KIB * KIB] * 20))
    stream = client.source.stream(["Work"], item_type=bytes)
    await anext(stream)
    assert await client.source.add1("Unlocked") is EXECUTED
    assert len([item async for item in stream]) == 19


# -- to the source -------------------------------------------------------------------------


class Sum:
    """A handler that adds up what comes with the call."""

    def __init__(self, house: House, *, most: int = 10**9) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.errors: list[BaseException] = []
        self.most = most
        self.read = 0
        self.gate = asyncio.Event()
        self.gate.set()
        house.handlers.on_work = self

    def __call__(self, event: Event) -> None:
        origin = origin_of(event)
        deferred = origin.defer()
        task = asyncio.ensure_future(self._add(deferred, origin.items(int)))
        deferred.on_cancel(task.cancel)
        self.tasks.append(task)

    async def _add(self, deferred: Any, items: Any) -> None:
        total = 0
        try:
            async for item in items:
                await self.gate.wait()
                total += item
                self.read += 1
                if self.read == self.most:
                    await items.aclose()
        except Exception as error:
            self.errors.append(error)
            deferred.fail(JobFailed(f"after {total}: {error}"))
        else:
            deferred.answer(total)


async def test_a_handler_reads_what_comes_with_a_call(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    Sum(anywhere)
    upload = Source(list(range(3000)))
    total = await client.source.request(["Work"], result_type=int, upload=upload)
    assert total == sum(range(3000)) and upload.closed.is_set()


async def test_a_slow_handler_makes_the_client_wait(anywhere: House) -> None:
    await anywhere.mux(options=RpcOptions(stream_credit=100))
    client = await anywhere.connect()
    handler = Sum(anywhere)
    handler.gate.clear()
    upload = Source([1] * 1000)  # a byte each
    call = client.source.request(["Work"], result_type=int, upload=upload)
    await settle(client)
    assert 100 <= upload.given <= 130
    handler.gate.set()
    assert await call == 1000


async def test_a_handler_that_stops_reading_closes_the_clients_iterator(
    anywhere: House,
) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    handler = Sum(anywhere, most=3)
    upload = Source([1] * 10, endless=True)
    assert await client.source.request(["Work"], result_type=int, upload=upload) == 3
    await upload.closed.wait()
    assert handler.errors == []


async def test_an_answer_ends_the_upload(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    upload = Source([1], endless=True)
    assert await client.source.request(["Work"], result_type=object, upload=upload) is None
    await upload.closed.wait()


async def test_an_exception_of_the_clients_iterator_is_raised_in_the_handler(
    anywhere: House,
) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    handler = Sum(anywhere)
    with pytest.raises(JobFailed, match="after 3: ValueError: no more"):
        await client.source.request(["Work"], upload=Source([1, 2], ValueError("no more")))
    assert isinstance(handler.errors[0], RpcError)


async def test_a_stream_is_read_once(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    errors: list[Exception] = []

    def work(event: Event) -> None:
        origin = origin_of(event)
        origin.defer()
        origin.items(int)
        try:
            origin.items(int)
        except RpcError as error:
            errors.append(error)
        origin.defer().answer()

    anywhere.handlers.on_work = work
    await client.source.request(["Work"], upload=Source([1]))
    assert "being read already" in str(errors[0])


async def test_a_cancelled_call_cancels_the_handler_and_the_upload(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    handler = Sum(anywhere)
    upload = Source([1, 2], endless=True)

    async def call() -> Any:
        return await client.source.request(["Work"], upload=upload)

    task = asyncio.ensure_future(call())
    await settle(client)
    task.cancel()
    await asyncio.wait((task,))
    await upload.closed.wait()
    await asyncio.wait(handler.tasks)
    assert handler.tasks[0].cancelled()


async def test_both_ways_at_once(anywhere: House) -> None:
    """The handler gives back the squares of what comes."""
    await anywhere.mux()
    client = await anywhere.connect()

    async def squares(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item * item

    def work(event: Event) -> None:
        origin = origin_of(event)
        origin.defer().stream(squares(origin.items(int)))

    anywhere.handlers.on_work = work
    upload = Source(list(range(2000)))
    stream = client.source.stream(["Work"], item_type=int, upload=upload)
    assert [item async for item in stream] == [n * n for n in range(2000)]
    await upload.closed.wait()


# -- over a cut ----------------------------------------------------------------------------


async def test_a_stream_goes_on_over_cuts(line: House) -> None:
    await line.mux()
    proxy = await line.behind_proxy()
    options = msgspec.structs.replace(EAGER, stream_credit=20 * KIB)
    client = await line.connect(options=options)
    source = Source([bytes([n]) * 5 * KIB for n in range(200)])
    streams(line, lambda: source)
    got: list[int] = []
    async for item in client.source.stream(["Work"], item_type=bytes):
        got.append(item[0])
        if len(got) in (30, 90, 150):
            proxy.cut_after(7 * KIB)
    assert got == list(range(200))
    assert len(line.resumed) == 3 and source.closed.is_set()


async def test_an_upload_goes_on_over_cuts(line: House) -> None:
    await line.mux(options=RpcOptions(stream_credit=20 * KIB))
    proxy = await line.behind_proxy()
    client = await line.connect(options=EAGER)
    got: list[int] = []
    done: list[Any] = []

    async def read(deferred: Any, items: AsyncIterator[bytes]) -> None:
        async for item in items:
            got.append(item[0])
            if len(got) in (30, 90, 150):
                proxy.cut_after(7 * KIB)
        deferred.answer(len(got))

    def work(event: Event) -> None:
        origin = origin_of(event)
        done.append(asyncio.ensure_future(read(origin.defer(), origin.items(bytes))))

    line.handlers.on_work = work
    upload = Source([bytes([n]) * 5 * KIB for n in range(200)])
    assert await client.source.request(["Work"], result_type=int, upload=upload) == 200
    assert got == list(range(200)) and len(line.resumed) == 3 and len(done) == 1


async def test_a_stream_whose_session_is_lost_says_so_at_both_ends(line: House) -> None:
    await line.mux(options=RpcOptions(session_ttl=0.001))
    proxy = await line.behind_proxy()
    client = await line.connect(options=EAGER)
    handler = Sum(line)
    upload = Source([1], endless=True)
    call = client.source.request(["Work"], upload=upload)
    source = Source([1], endless=True)
    await settle(client)
    streams(line, lambda: source)
    stream = client.source.stream(["Work"], item_type=int)
    assert await anext(stream) == 1
    proxy.refusing = True
    proxy.cut()
    await line.until(lambda: line.disconnected)
    await source.closed.wait()
    proxy.refusing = False
    for awaitable in (call, anext(stream)):
        with pytest.raises(ConnectionLost) as raised:
            await awaitable
        assert raised.value.outcome is Outcome.UNKNOWN
    await upload.closed.wait()
    await asyncio.wait(handler.tasks)
    assert handler.tasks[0].cancelled()


async def test_stop_ends_streams_at_both_ends(line: House) -> None:
    await line.mux()
    client = await line.connect()
    source = Source([1], endless=True)
    streams(line, lambda: source)
    stream = client.source.stream(["Work"], item_type=int)
    assert await anext(stream) == 1
    await client.stop()
    with pytest.raises(ConnectionLost, match="closed here"):
        await anext(stream)
    await source.closed.wait()
    with pytest.raises(ConnectionLost):
        await anext(client.source.stream(["Work"]))


async def test_a_stream_that_is_closed_while_cut_is_closed_at_the_source(line: House) -> None:
    await line.mux()
    proxy = await line.behind_proxy()
    client = await line.connect(options=EAGER)
    source = Source([1, 2, 3], endless=True)
    streams(line, lambda: source)
    stream = client.source.stream(["Work"], item_type=int)
    assert await anext(stream) == 1
    proxy.refusing = True
    proxy.cut()
    await client.machine.when1("RetryingConn")
    await stream.aclose()
    assert not source.closed.is_set()
    proxy.refusing = False
    await source.closed.wait()
    assert await client.source.add1("Unlocked") is EXECUTED
