"""What is recorded of an error: the state that says where, and its branch of the tree."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from amnode.errors import AmnodeError, PoolError, RpcError, RpcTimeoutError, WorkerError
from amnode.machine.machine import Machine
from amnode.node.add_errors import add_err_pool, add_err_rpc, add_err_worker
from amnode.node.states import SupervisorStates

CASES = [
    (add_err_pool, "ErrPool", PoolError),
    (add_err_rpc, "ErrNetwork", RpcError),
    (add_err_worker, "ErrWorker", WorkerError),
]


@pytest.mark.parametrize(("record", "state", "branch"), CASES)
async def test_a_message_and_an_error_of_python_are_wrapped(
    record: Callable[[Machine, BaseException | str], object],
    state: str,
    branch: type[AmnodeError],
) -> None:
    for error in ("no room", OSError("no room")):
        machine = Machine(SupervisorStates, id="m")
        record(machine, error)
        assert machine.is1(state)
        assert machine.is1("Exception")
        assert isinstance(machine.err, branch)
        assert "no room" in str(machine.err)
        assert machine.err.__cause__ is (error if isinstance(error, OSError) else None)
        await machine.dispose()


async def test_an_error_of_the_tree_stays_what_it_is() -> None:
    machine = Machine(SupervisorStates, id="m")
    error = RpcTimeoutError("late")
    add_err_worker(machine, error)
    assert machine.err is error
    await machine.dispose()
