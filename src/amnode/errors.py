"""Every exception of the project, in one tree, and the plain data that errors carry.

    AmnodeError
    ├── OptionError (ValueError)           an option or argument that cannot work
    ├── MachineError
    │   ├── SchemaError (ValueError)       a schema that contradicts itself
    │   ├── StateUnknownError (KeyError)   a state that the machine does not have
    │   ├── BindingError (TypeError)       a handler that fits no state, or more than one
    │   ├── MachineDisposedError           the machine that was waited for is gone
    │   ├── ContextExpiredError            the state context of a wait ended first
    │   ├── WaitTimeoutError (TimeoutError)  what was waited for did not come true in time
    │   ├── StateArgsError (TypeError)     arguments that are not what the state declares
    │   └── HandlerTimeoutError            a handler held the machine too long
    ├── RpcError                           something between two machines
    │   ├── ProtocolError                  the peer sent what no peer may send
    │   ├── AuthError                      a proof did not check out
    │   ├── RefusedError                   the peer said no, and why
    │   ├── NotSyncedError                 a replica was asked what it does not follow
    │   ├── DeliveryError                  a payload that could not be sent or used
    │   ├── RpcTimeoutError (TimeoutError) the peer did not answer in time
    │   └── ConnectionLost (ConnectionError)  it was cut; the outcome of calls is unknown
    ├── LaunchError                        a process could not be started
    ├── PoolError                          the pool could not be made whole
    │   └── StateDirectoryError            a state directory that cannot be used
    ├── HeartbeatError                     a check of the pool did not end
    ├── WorkerError                        a worker failed; says the cause and the outcome
    │   ├── WorkerMissingError             there is no such worker
    │   ├── WorkerHealthError              it did not answer its checks
    │   ├── WorkerConnError                no connection to it could be made
    │   └── WorkerKillError                it could not be ended
    ├── LeaseError
    │   ├── LeaseTimeoutError (TimeoutError)  no worker came free in time
    │   └── LeaseLost                      the lease ended under its client
    ├── SimulationError                    a simulated deployment that cannot go on
    │   └── PromiseBroken                  a predicate that does not hold in it
    └── JobError
        ├── JobUnknownError                the worker has no such job
        ├── JobArgumentsError (TypeError)  arguments that do not fit the job
        ├── JobTimeoutError (TimeoutError) the job ran past its deadline
        ├── JobCancelled                   the job was cancelled before it ended
        └── JobFailed                      the job raised what its caller does not know

A message says what was wrong, with which value, and what to do. Errors cross the wire as
``ErrorData``: the class is looked up by name in this tree and nowhere else.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Cause(StrEnum):
    """Why a worker is no more, as far as is known (promise S20)."""

    EXIT_CODE = "exit code"
    SIGNAL = "signal"
    HANG = "hang"
    START_TIMEOUT = "start timeout"
    HARD_DEADLINE = "hard deadline"
    REFUSED = "refused"
    LOST = "lost"


class Outcome(StrEnum):
    """What is known of the work that an error ended (promise S20)."""

    NOT_RUN = "not run"
    RUN = "run"
    UNKNOWN = "unknown"


class ErrorData(msgspec.Struct, frozen=True):
    """An error as it crosses a connection: data, never code.

    Attributes:
        name: the class, by its name in this module; an unknown one arrives as `RpcError`.
        message: what `str()` of the error said.
        detail: attributes of the class that cross with it, such as a remote traceback.
    """

    name: str
    message: str
    detail: dict[str, str]


class AmnodeError(Exception):
    """The root: catch it to catch whatever this package raises on purpose."""

    #: Attributes that cross the wire beside the message; all of them text.
    wire_fields: tuple[str, ...] = ()

    def to_data(self) -> ErrorData:
        """The error as plain data, for the wire and for logs."""
        detail = {name: str(getattr(self, name)) for name in self.wire_fields}
        return ErrorData(type(self).__name__, str(self), detail)


class OptionError(AmnodeError, ValueError):
    """An option or argument that cannot work, with its value and what would."""


# -- machine ---------------------------------------------------------------------------


class MachineError(AmnodeError):
    """Something about a machine, its schema or its handlers."""


class SchemaError(MachineError, ValueError):
    """A schema that contradicts itself; the message names the states."""


class StateUnknownError(MachineError, KeyError):
    """A state that the machine does not have; the message has the nearest names."""

    __str__ = Exception.__str__  # KeyError would show the repr of the message


class BindingError(MachineError, TypeError):
    """A handler that names no state, or could name two."""


class MachineDisposedError(MachineError):
    """The machine was disposed while something waited for it."""


class ContextExpiredError(MachineError):
    """The state context that a wait was tied to ended first."""


class WaitTimeoutError(MachineError, TimeoutError):
    """What was waited for did not come true in time; the message says which of it."""


class StateArgsError(MachineError, TypeError):
    """Arguments that are not what the called state declares; nothing was changed."""


class HandlerTimeoutError(MachineError):
    """A handler held the machine longer than it may."""


# -- rpc -------------------------------------------------------------------------------


class RpcError(AmnodeError):
    """Something between two machines on two sides of a connection."""


class ProtocolError(RpcError):
    """The peer sent what no peer may send; the connection is closed."""


class AuthError(RpcError):
    """A proof did not check out: another token, or somebody in between."""


class RefusedError(RpcError):
    """The peer understood and said no; the message has its reason."""


class NotSyncedError(RpcError):
    """A replica was asked for a state that it does not follow."""


class DeliveryError(RpcError):
    """A payload could not be sent, or what arrived could not be used."""


class RpcTimeoutError(RpcError, TimeoutError):
    """The peer did not answer in time."""


class ConnectionLost(RpcError, ConnectionError):
    """The connection is gone for good.

    Attributes:
        outcome: what is known of the call that it ended, one of `Outcome`: *not run* if it had
            never left, else *unknown*.
    """

    wire_fields = ("outcome",)

    def __init__(self, message: str, *, outcome: Outcome = Outcome.UNKNOWN) -> None:
        super().__init__(message)
        self.outcome = Outcome(outcome)


# -- processes, pool, workers ----------------------------------------------------------


class LaunchError(AmnodeError):
    """A process could not be started; the message has the command and the reason."""


class PoolError(AmnodeError):
    """The pool could not be made whole; the message has the workers' own last words."""


class StateDirectoryError(PoolError):
    """A state directory cannot be used: another has it, or its content is not to trust."""


class HeartbeatError(AmnodeError):
    """A check of all workers did not end in time."""


class WorkerError(AmnodeError):
    """A worker failed.

    Attributes:
        cause: why, one of `Cause`.
        outcome: what is known of the call that it ended, one of `Outcome`.
        worker_id: the machine id of the worker, or "".
        exit_code: of the process; None where it is unknown or a signal ended it.
        signal: the name of the signal that ended it, such as "SIGKILL", or "".
        output: the last lines that the process wrote, oldest first.
        stack: of a worker that hung, where its threads were, line by line; it is a note of the
            error too.
    """

    wire_fields = ("cause", "outcome", "worker_id", "signal")

    def __init__(
        self,
        message: str,
        *,
        cause: Cause = Cause.LOST,
        outcome: Outcome = Outcome.UNKNOWN,
        worker_id: str = "",
        exit_code: int | None = None,
        signal: str = "",
        output: tuple[str, ...] = (),
        stack: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.cause = Cause(cause)
        self.outcome = Outcome(outcome)
        self.worker_id = worker_id
        self.exit_code = exit_code
        self.signal = signal
        self.output = output
        self.stack = stack
        if stack:
            self.add_note("\n".join(("Where the worker was:", *stack)))


class WorkerMissingError(WorkerError):
    """There is no worker of that id or address."""


class WorkerHealthError(WorkerError):
    """A worker did not answer its checks."""


class WorkerConnError(WorkerError):
    """No connection to a worker could be made in time."""


class WorkerKillError(WorkerError):
    """A worker process could not be ended."""


# -- leases and jobs -------------------------------------------------------------------


class LeaseError(AmnodeError):
    """A lease could not be had, or did not last."""


class LeaseTimeoutError(LeaseError, TimeoutError):
    """No worker came free within the time that the request allowed."""


class LeaseLost(LeaseError):
    """The lease ended under its client: released, past its maximum, or its worker is gone.

    Attributes:
        outcome: what is known of the call that it ended, one of `Outcome`.
    """

    wire_fields = ("outcome",)

    def __init__(self, message: str, *, outcome: Outcome = Outcome.UNKNOWN) -> None:
        super().__init__(message)
        self.outcome = Outcome(outcome)


class JobError(AmnodeError):
    """A job could not be run, or did not end well."""


class JobUnknownError(JobError):
    """The worker has no job of that name."""


class JobArgumentsError(JobError, TypeError):
    """The arguments do not fit the job; it was not run."""


class JobTimeoutError(JobError, TimeoutError):
    """The job ran past its deadline and was cancelled."""


class JobCancelled(JobError):
    """The job was cancelled before it ended, by its worker or the end of its lease."""


class JobFailed(JobError):
    """The job raised something that its caller does not know, or its result cannot be sent.

    What the caller does know (an exception of Python, or one in `exceptions` of the worker
    class) is raised as itself, with this as its cause; `amnode.failure_of` tells both.

    Attributes:
        error_type: the class name of what it raised.
        traceback: the remote traceback, as text.
        raised: what is needed to raise it again, as it crosses.
    """

    wire_fields = ("error_type", "traceback", "raised")

    def __init__(
        self, message: str, *, error_type: str = "", traceback: str = "", raised: str = ""
    ) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.traceback = traceback
        self.raised = raised
        if traceback:
            self.add_note(f"The traceback on the worker:\n{traceback.rstrip()}")


# -- simulation ------------------------------------------------------------------------


class SimulationError(AmnodeError):
    """A simulated deployment that cannot go on, such as one in which nothing will happen."""


class PromiseBroken(SimulationError):
    """A predicate that does not hold in a simulated deployment.

    Attributes:
        promise: its number, such as "S1".
    """

    wire_fields = ("promise",)

    def __init__(self, message: str, *, promise: str = "") -> None:
        super().__init__(message)
        self.promise = promise


def from_data(data: ErrorData) -> AmnodeError:
    """The exception that `data` describes, made anew on this side.

    A class that this tree does not have becomes `RpcError`, with its name in the message.
    Only the fields that the class lists cross; anything else in `detail` is dropped.
    """
    found = _BY_NAME.get(data.name)
    if found is None:
        return RpcError(f"{data.name}: {data.message}")
    detail = {name: data.detail[name] for name in found.wire_fields if name in data.detail}
    try:
        return found(data.message, **detail)
    except ValueError:  # a cause or outcome that this version does not know
        return found(data.message)


def _tree(root: type[AmnodeError]) -> dict[str, type[AmnodeError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


_BY_NAME = _tree(AmnodeError)
