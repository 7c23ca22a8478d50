"""`@job`: what may be one, how a call is encoded, checked and decoded."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode import JobArgumentsError, JobFailed, OptionError, job
from amnode.node.jobs import Job, StreamJob, jobs_of
from amnode.node.values import Packed
from amnode.rpc.protocol.wire import Large


@dataclass
class Point:
    x: int
    y: int = 0


class Base:
    @job
    async def echo(self, value: Any) -> Any:
        """Gives back what it gets."""
        return value

    @job
    async def moved(self, point: Point, *, by: int = 1) -> Point:
        return Point(point.x + by, point.y + by)

    @job
    async def when(self, day: dt.date, names: list[str]) -> dict[str, dt.date]:
        return dict.fromkeys(names, day)

    @job
    async def nothing(self) -> None: ...

    @job
    async def small(self, n: Annotated[int, msgspec.Meta(ge=0, le=9)]) -> int:
        return n


class Derived(Base):
    @job
    async def more(self) -> int:
        return 1

    echo = None  # no job any more

    @job
    async def nothing(self) -> int:  # another one of that name
        return 2


def sent(what: Job[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
    return what.decode(what.encode(args, kwargs))


def test_on_the_class_it_is_a_job_and_on_an_instance_the_method() -> None:
    assert isinstance(Base.echo, Job)
    assert Base.echo.name == "echo"
    assert Base.echo.__doc__ == "Gives back what it gets."
    assert repr(Base.moved) == "<Job Base.moved(point: 'Point', *, by: 'int' = 1) -> 'Point'>"
    coro = Base().echo(1)
    with pytest.raises(StopIteration) as ended:
        coro.send(None)
    assert ended.value.value == 1


def test_the_jobs_of_a_class_are_its_own_and_inherited_ones() -> None:
    assert list(jobs_of(Base)) == ["echo", "moved", "when", "nothing", "small"]
    found = jobs_of(Derived)
    assert set(found) == {"moved", "when", "nothing", "small", "more"}
    assert found["nothing"] is Derived.nothing


def test_what_cannot_be_a_job_is_refused_by_name() -> None:
    def plain(self: object) -> None: ...

    async def stars(self: object, *rest: int) -> None: ...

    async def names(self: object, **rest: int) -> None: ...

    def generator(self: object):
        yield 1

    for wrong in (plain, stars, names, generator):
        with pytest.raises(OptionError, match=wrong.__name__):
            job(wrong)


def test_a_generator_is_a_stream_on_the_loop_or_on_the_thread() -> None:
    class Streams:
        @job
        async def points(self) -> AsyncIterator[Point]:
            yield Point(1)

        @job(thread=True)
        def numbers(self) -> Generator[int, None, None]:
            yield 1

        @job
        async def untyped(self):  # type: ignore[no-untyped-def]
            yield 1

    assert isinstance(Streams.points, StreamJob) and not Streams.points.thread
    assert isinstance(Streams.numbers, StreamJob) and Streams.numbers.thread
    assert [*Streams().numbers()] == [1]
    crossed = msgspec.Raw(msgspec.msgpack.encode(Streams.points.encode_item(Point(1, 2))))
    assert Streams.points.decode_item(crossed) == Point(1, 2)
    with pytest.raises(JobFailed, match="An item of numbers does not fit"):
        Streams.numbers.decode_item(crossed)
    with pytest.raises(JobFailed, match="An item of points cannot be sent"):
        Streams.points.encode_item(object())  # type: ignore[arg-type]
    assert isinstance(Streams.untyped, StreamJob)
    with pytest.raises(OptionError, match="needs no thread"):
        job(thread=True)(Streams.points.function)


def test_an_item_that_may_change_is_copied_and_one_that_may_not_is_not() -> None:
    class Streams:
        @job
        async def frames(self) -> AsyncIterator[bytes]:
            yield b""

    frame = bytearray(b"1" * 100_000)
    sent = Streams.frames.encode_item(frame)  # type: ignore[arg-type]
    frame[:] = b"2" * 100_000
    assert isinstance(sent, Large)
    assert b"".join(sent.parts).endswith(b"1" * 100_000)
    whole = bytes(frame)
    sent = Streams.frames.encode_item(whole)
    assert isinstance(sent, Large)
    assert any(isinstance(part, memoryview) and part.obj is whole for part in sent.parts)


def test_arguments_arrive_in_their_annotated_types() -> None:
    assert sent(Base.moved, Point(1, 2)) == [Point(1, 2), 1]
    assert sent(Base.moved, point=Point(1), by=3) == [Point(1, 0), 3]
    assert sent(Base.when, dt.date(2020, 2, 29), ["a"]) == [dt.date(2020, 2, 29), ["a"]]
    assert sent(Base.nothing) == []


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((Point(1), 2), {}), ((Point(1),), {"to": 1}), ((1,), {"point": 1})],
)
def test_too_few_too_many_and_unknown_ones_are_refused_here(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(JobArgumentsError, match="moved"):
        Base.moved.encode(args, kwargs)


@pytest.mark.parametrize("value", [object(), {1, object()}, 2**64, [lambda: 1]])
def test_what_cannot_be_sent_is_named(value: Any) -> None:
    with pytest.raises(JobArgumentsError, match="Argument value of echo cannot be sent"):
        Base.echo.encode((value,), {})


def test_an_endless_value_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(JobArgumentsError, match="cannot be sent"):
        Base.echo.encode((endless,), {})


def test_what_does_not_fit_is_named_and_its_value_is_not_shown() -> None:
    data = msgspec.msgpack.encode([{"x": "secret"}, 1])
    with pytest.raises(JobArgumentsError, match="argument `point") as caught:
        Base.moved.decode(Packed(data))
    assert "secret" not in str(caught.value)
    with pytest.raises(JobArgumentsError, match="argument `n`"):
        Base.small.decode(Base.small.encode((10,), {}))


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x92\x01", b"\x81\x01\x02", b"\xc1", b"\x91"])
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(JobArgumentsError):
        Base.small.decode(Packed(data))


def test_a_call_passes_each_where_it_belongs() -> None:
    for args, kwargs in (
        ((Point(1),), {}),
        ((Point(1),), {"by": 5}),
        ((), {"point": Point(1)}),
    ):
        call = Base.moved.bind(Base(), sent(Base.moved, *args, **kwargs))
        with pytest.raises(StopIteration) as ended:
            call().send(None)
        by = kwargs.get("by", 1)
        assert ended.value.value == Point(1 + by, by)


def test_results_arrive_in_their_annotated_type() -> None:
    data = Base.moved.encode_result(Point(1, 2))
    assert Base.moved.decode_result(data) == Point(1, 2)
    assert Base.nothing.decode_result(Base.nothing.encode_result(None)) is None


def test_a_result_that_does_not_fit_or_cannot_be_sent_is_the_jobs_failure() -> None:
    with pytest.raises(JobFailed, match="result of moved does not fit"):
        Base.moved.decode_result(Packed(msgspec.msgpack.encode("no point")))
    with pytest.raises(JobFailed, match="result of echo cannot be sent") as caught:
        Base.echo.encode_result(object())
    assert caught.value.error_type == "object"


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain_values)
def test_plain_values_come_through(value: Any) -> None:
    assert sent(Base.echo, value) == [value]
    assert Base.echo.decode_result(Base.echo.encode_result(value)) == value


@given(st.binary(max_size=40))
def test_whatever_comes_there_is_one_kind_of_error(data: bytes) -> None:
    with suppress(JobArgumentsError):
        Base.moved.decode(Packed(data))


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def test_what_is_nested_too_deep_is_an_error_at_either_end() -> None:
    assert sent(Base.echo, nested(50)) == [nested(50)]
    with pytest.raises(JobArgumentsError, match="echo"):
        sent(Base.echo, nested(100_000))
    with pytest.raises(JobFailed, match="echo"):
        Base.echo.decode_result(Base.echo.encode_result(nested(100_000)))
    # Deeper than any encoder here makes it, and cut off.
    for wire in (b"\x91" * 100_000 + b"\xc0", b"\x91" * 5_000):
        with pytest.raises(JobArgumentsError, match="echo"):
            Base.echo.decode(Packed(wire))
        with pytest.raises(JobFailed, match="echo"):
            Base.echo.decode_result(Packed(wire))
