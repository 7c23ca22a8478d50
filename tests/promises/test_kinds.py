"""A client that asks for another kind, or has another schema, is refused at once, with an
error that names both sides. So is a worker class that no other process could import, when it
is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from amnode import (
    Client,
    ClientOptions,
    Event,
    OptionError,
    PoolSize,
    RefusedError,
    Supervisor,
    SupervisorOptions,
    Worker,
    job,
)
from amnode.rpc.exposure import Exposure
from amnode.rpc.protocol.subscription import schema_hash
from tests.promises.pools import client_of, pool
from tests.promises.workers import Other, OtherStates, Plain


async def test_a_wrong_kind_is_refused_and_both_are_named() -> None:
    async with pool() as supervisor, client_of(supervisor, kind=Other) as client:
        with pytest.raises(RefusedError) as caught:
            await client.req_worker()
        assert "'Plain'" in str(caught.value)
        assert "'Other'" in str(caught.value)
        await supervisor.all_idle(1)


async def test_a_wrong_schema_is_refused_and_both_are_named() -> None:
    async with pool() as supervisor:
        async with Client(
            "me", "Plain", OtherStates, addrs=[supervisor.address], token=supervisor.token
        ) as client:
            with pytest.raises(RefusedError) as caught:
                await client.req_worker()
        assert schema_hash(OtherStates.schema()).hex() in str(caught.value)
        assert schema_hash(Plain.schema.schema()).hex() in str(caught.value)


async def test_others_are_not_disturbed() -> None:
    async with (
        pool() as supervisor,
        client_of(supervisor, kind=Other) as wrong,
        client_of(supervisor) as right,
        right.lease() as worker,
    ):
        with pytest.raises(RefusedError):
            await wrong.req_worker()
        assert await worker.call(Plain.square, 7) == 49


async def test_kind_and_schema_may_be_given_as_such() -> None:
    async with (
        pool() as supervisor,
        Client(
            "me", "Plain", Plain.schema, addrs=[supervisor.address], token=supervisor.token
        ) as client,
        client.lease() as worker,
    ):
        assert await worker.call(Plain.square, 7) == 49


def test_a_class_that_cannot_be_imported_is_refused() -> None:
    class Local(Worker):
        pass

    with pytest.raises(OptionError, match="top level of a module"):
        Supervisor(Local)
    with pytest.raises(OptionError, match="schema"):
        Client("me", "Plain", addrs=["unix:/x"], token=b"x")


# -- what cannot work is refused when it is given -------------------------------------------

BAD_KINDS = ["../../evil", "a/b", "a\nb", "\n", "x" * 250, ".", "..", " ", "a\0b"]


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_a_kind_that_cannot_be_a_name_is_refused(kind: str) -> None:
    named = type("Named", (Plain,), {"kind": kind})
    makers: list[Callable[[], object]] = [
        lambda: Supervisor(named),
        lambda: Supervisor(kind, ["/bin/true"], Plain.schema),
        lambda: Client("me", named, addrs=["unix:/x"], token=b"x"),
        lambda: Client("me", kind, Plain.schema, addrs=["unix:/x"], token=b"x"),
    ]
    for make in makers:
        with pytest.raises(OptionError, match=r"[Kk]ind") as caught:
            make()
        assert repr(kind) in str(caught.value)


@pytest.mark.parametrize("kind", ["", 5, None, Plain(), object])
def test_what_is_no_kind_is_refused(kind: Any) -> None:
    with pytest.raises(OptionError, match=r"[Kk]ind"):
        Supervisor(kind, ["/bin/true"], Plain.schema)
    with pytest.raises(OptionError, match=r"[Kk]ind"):
        Client("me", kind, Plain.schema, addrs=["unix:/x"], token=b"x")


@pytest.mark.parametrize("opts", [5, PoolSize(), "fast", {}, Plain])
def test_options_of_another_type_are_refused(opts: Any) -> None:
    with pytest.raises(OptionError, match=r"opts is .*SupervisorOptions"):
        Supervisor(Plain, opts=opts)
    with pytest.raises(OptionError, match=r"opts is .*ClientOptions"):
        Client("me", Plain, addrs=["unix:/x"], token=b"x", opts=opts)


@pytest.mark.parametrize("opts", [5, PoolSize(), SupervisorOptions()])
def test_a_worker_with_options_of_another_type_is_refused(opts: Any) -> None:
    with pytest.raises(OptionError, match=r"opts is .*WorkerOptions"):
        Worker(opts=opts)


def test_the_options_of_another_are_refused() -> None:
    wrong: Any = ClientOptions()
    with pytest.raises(OptionError, match="SupervisorOptions"):
        Supervisor(Plain, opts=wrong)
    wrong = SupervisorOptions()
    with pytest.raises(OptionError, match="ClientOptions"):
        Client("me", Plain, addrs=["unix:/x"], token=b"x", opts=wrong)


@pytest.mark.parametrize("id", [5, None, b"me", "", "a\nb", "x" * 101])
def test_an_id_that_is_none_is_refused(id: Any) -> None:
    with pytest.raises(OptionError, match="Client id"):
        Client(id, Plain, addrs=["unix:/x"], token=b"x")


def test_addresses_are_a_list_of_addresses() -> None:
    wrong: Any = "unix:/run/door"
    with pytest.raises(OptionError, match=r"pass a list.*\['unix:/run/door'\]"):
        Client("me", Plain, addrs=wrong, token=b"x")
    for bad in ("/run/door", "udp:1:2", "unix:", "door", ""):
        with pytest.raises(OptionError, match=r"unix:/"):
            Client("me", Plain, addrs=["unix:/fine", bad], token=b"x")


async def test_so_are_those_of_its_start() -> None:
    client = Client("me", Plain, token=b"x")
    wrong: Any = "unix:/run/door"
    with pytest.raises(OptionError, match="pass a list"):
        client.start(wrong)
    with pytest.raises(OptionError, match=r"unix:/"):
        client.start(["udp:1:2"])
    assert client.machine.not1("Start")
    await client.dispose()


# -- what a class may not call its own ------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["run", "start", "stop", "info", "machine", "lease", "name", "_release", "_exit"]
)
def test_a_job_named_like_something_of_every_worker_is_refused(name: str) -> None:
    @job
    async def body(self: object) -> int:
        return 1

    async def method(self: object) -> int:
        return 1

    for given in (body, method, 5, property(lambda self: 5)):
        with pytest.raises(OptionError, match=rf"Clash\.{name}\b"):
            type("Clash", (Worker,), {name: given})
        with pytest.raises(OptionError, match=rf"Clash\.{name}\b"):
            type("Clash", (Plain,), {name: given})


def test_what_a_class_may_define() -> None:
    class Fine(Plain):
        """Has all of it."""

        kind = "Fine"
        schema = OtherStates
        total = 0

        def __init__(self) -> None:
            super().__init__()

        def __repr__(self) -> str:
            return "Fine"

        def exposure(self) -> Exposure:
            return super().exposure()

        async def on_release(self) -> None:
            await super().on_release()

        def ElsewhereState(self, event: Event) -> None: ...

        def WorkingState(self, event: Event) -> None:
            super().WorkingState(event)

        @job
        async def runs(self) -> int:
            return 1

    assert repr(Fine()) == "Fine"


def test_a_hook_that_is_not_async_is_refused() -> None:
    with pytest.raises(OptionError, match=r"Sync\.on_release must be an `async def`"):

        class Sync(Worker):
            def on_release(self) -> None: ...  # type: ignore[override]
