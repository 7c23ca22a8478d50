"""A client that asks for another kind, or has another schema, is refused at once, with an
error that names both sides. So is a worker class that no other process could import, when it
is given.
"""

from __future__ import annotations

import pytest

from amnode import Client, OptionError, RefusedError, Supervisor, Worker
from amnode.rpc.protocol.handshake import schema_hash
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
