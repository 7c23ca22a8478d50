"""Recording what went wrong on a node's machine, as the error state that says where.

Each takes an exception or a message. One that is not of the branch that its state stands for is
wrapped, with the first as its cause, so that whoever reads `machine.err` can catch by branch.
"""

from __future__ import annotations

from typing import TypeVar

from amnode.errors import AmnodeError, PoolError, RpcError, WorkerError
from amnode.machine.machine import Machine
from amnode.machine.queue import Result

E = TypeVar("E", bound=AmnodeError)


def add_err_pool(machine: Machine, error: BaseException | str, args: object = None) -> Result:
    """Records as ErrPool that the pool could not be made whole."""
    return machine.add_err_state("ErrPool", _of(PoolError, error), args)


def add_err_rpc(machine: Machine, error: BaseException | str, args: object = None) -> Result:
    """Records as ErrNetwork that something between two machines went wrong."""
    return machine.add_err_state("ErrNetwork", _of(RpcError, error), args)


def add_err_worker(machine: Machine, error: BaseException | str, args: object = None) -> Result:
    """Records as ErrWorker that something went wrong with a worker."""
    return machine.add_err_state("ErrWorker", _of(WorkerError, error), args)


def _of(branch: type[E], error: BaseException | str) -> BaseException:
    if isinstance(error, str):
        return branch(error)
    if isinstance(error, AmnodeError):
        return error  # it says already of which branch it is
    wrapped = branch(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
