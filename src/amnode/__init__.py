"""Warm pools of stateful worker processes, leased to one client at a time.

The names of the public API, imported on first use: a worker's process must not pay for what
only a supervisor needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amnode.errors import (
        AmnodeError,
        AuthError,
        BindingError,
        Cause,
        ConnectionLost,
        ContextExpiredError,
        DeliveryError,
        HandlerTimeoutError,
        HeartbeatError,
        JobArgumentsError,
        JobCancelled,
        JobError,
        JobFailed,
        JobTimeoutError,
        JobUnknownError,
        LaunchError,
        LeaseError,
        LeaseLost,
        LeaseTimeoutError,
        MachineDisposedError,
        MachineError,
        NotSyncedError,
        OptionError,
        Outcome,
        PoolError,
        PromiseBroken,
        ProtocolError,
        RefusedError,
        RpcError,
        RpcTimeoutError,
        SchemaError,
        SimulationError,
        StateArgsError,
        StateDirectoryError,
        StateUnknownError,
        WaitTimeoutError,
        WorkerConnError,
        WorkerError,
        WorkerHealthError,
        WorkerKillError,
        WorkerMissingError,
    )
    from amnode.machine.binding import Handlers
    from amnode.machine.combine import wait_all, wait_any
    from amnode.machine.log import LogLevel, MachineLog
    from amnode.machine.machine import Machine
    from amnode.machine.pipes import pipe
    from amnode.machine.queue import CANCELED, EXECUTED
    from amnode.machine.schema import Group, Schema, State, States
    from amnode.machine.snapshot import Snapshot
    from amnode.machine.story import Story
    from amnode.machine.transition import Event
    from amnode.node.args import SendPayloadArgs
    from amnode.node.client import Client
    from amnode.node.executor import PoolExecutor
    from amnode.node.executor_errors import CallLostError, ExecutorBrokenError
    from amnode.node.failures import failure_of
    from amnode.node.inprocess_worker import in_process_launcher
    from amnode.node.job_stream import JobStream
    from amnode.node.jobs import job
    from amnode.node.leased import LeasedWorker
    from amnode.node.listing import WorkerState
    from amnode.node.local_pool import Pool
    from amnode.node.operator_args import WorkerRow
    from amnode.node.policy.options import (
        ClientOptions,
        DispatchOptions,
        PoolSize,
        SupervisorOptions,
        WorkerOptions,
    )
    from amnode.node.pool_map import PoolMap
    from amnode.node.pool_stream import PoolStream
    from amnode.node.progress import Progress
    from amnode.node.progress_bar import progress_bar
    from amnode.node.states import ClientStates, SupervisorStates, WorkerStates
    from amnode.node.submitted import Submitted
    from amnode.node.supervisor import Supervisor
    from amnode.node.sync_map import SyncMap
    from amnode.node.sync_pool import SyncCall, SyncPool
    from amnode.node.sync_stream import SyncStream
    from amnode.node.worker import Worker, run_worker
    from amnode.rpc.client import PayloadArgs, RpcClient
    from amnode.rpc.exposure import ErrorReport, Exposure
    from amnode.rpc.mux import Mux
    from amnode.rpc.network_machine import NetworkMachine
    from amnode.rpc.options import RpcOptions
    from amnode.rpc.origin import Deferred, Origin
    from amnode.rpc.server import RpcServer
    from amnode.rpc.states import ConsumerStates
    from amnode.rpc.tls_files import TlsFiles
    from amnode.rpc.transport.by_address import StreamTransport

_HOME = {
    "amnode.errors": (
        "AmnodeError",
        "AuthError",
        "BindingError",
        "Cause",
        "ConnectionLost",
        "ContextExpiredError",
        "DeliveryError",
        "HandlerTimeoutError",
        "HeartbeatError",
        "JobArgumentsError",
        "JobCancelled",
        "JobError",
        "JobFailed",
        "JobTimeoutError",
        "JobUnknownError",
        "LaunchError",
        "LeaseError",
        "LeaseLost",
        "LeaseTimeoutError",
        "MachineDisposedError",
        "MachineError",
        "NotSyncedError",
        "OptionError",
        "Outcome",
        "PoolError",
        "PromiseBroken",
        "ProtocolError",
        "RefusedError",
        "RpcError",
        "RpcTimeoutError",
        "SchemaError",
        "SimulationError",
        "StateArgsError",
        "StateDirectoryError",
        "StateUnknownError",
        "WaitTimeoutError",
        "WorkerConnError",
        "WorkerError",
        "WorkerHealthError",
        "WorkerKillError",
        "WorkerMissingError",
    ),
    "amnode.machine.binding": ("Handlers",),
    "amnode.machine.combine": ("wait_all", "wait_any"),
    "amnode.machine.log": ("LogLevel", "MachineLog"),
    "amnode.machine.machine": ("Machine",),
    "amnode.machine.pipes": ("pipe",),
    "amnode.machine.queue": ("CANCELED", "EXECUTED"),
    "amnode.machine.schema": ("Group", "Schema", "State", "States"),
    "amnode.machine.snapshot": ("Snapshot",),
    "amnode.machine.story": ("Story",),
    "amnode.machine.transition": ("Event",),
    "amnode.node.args": ("SendPayloadArgs",),
    "amnode.node.client": ("Client",),
    "amnode.node.failures": ("failure_of",),
    "amnode.node.jobs": ("job",),
    "amnode.node.leased": ("LeasedWorker",),
    "amnode.node.policy.options": (
        "ClientOptions",
        "DispatchOptions",
        "PoolSize",
        "SupervisorOptions",
        "WorkerOptions",
    ),
    "amnode.node.executor": ("PoolExecutor",),
    "amnode.node.executor_errors": ("CallLostError", "ExecutorBrokenError"),
    "amnode.node.inprocess_worker": ("in_process_launcher",),
    "amnode.node.progress": ("Progress",),
    "amnode.node.progress_bar": ("progress_bar",),
    "amnode.node.job_stream": ("JobStream",),
    "amnode.node.submitted": ("Submitted",),
    "amnode.node.states": ("ClientStates", "SupervisorStates", "WorkerStates"),
    "amnode.node.listing": ("WorkerState",),
    "amnode.node.operator_args": ("WorkerRow",),
    "amnode.node.local_pool": ("Pool",),
    "amnode.node.pool_map": ("PoolMap",),
    "amnode.node.pool_stream": ("PoolStream",),
    "amnode.node.supervisor": ("Supervisor",),
    "amnode.node.sync_map": ("SyncMap",),
    "amnode.node.sync_pool": ("SyncCall", "SyncPool"),
    "amnode.node.sync_stream": ("SyncStream",),
    "amnode.node.worker": ("Worker", "run_worker"),
    "amnode.rpc.client": ("PayloadArgs", "RpcClient"),
    "amnode.rpc.exposure": ("ErrorReport", "Exposure"),
    "amnode.rpc.mux": ("Mux",),
    "amnode.rpc.network_machine": ("NetworkMachine",),
    "amnode.rpc.options": ("RpcOptions",),
    "amnode.rpc.origin": ("Deferred", "Origin"),
    "amnode.rpc.server": ("RpcServer",),
    "amnode.rpc.states": ("ConsumerStates",),
    "amnode.rpc.tls_files": ("TlsFiles",),
    "amnode.rpc.transport.by_address": ("StreamTransport",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "CANCELED",
    "EXECUTED",
    "AmnodeError",
    "AuthError",
    "BindingError",
    "CallLostError",
    "Cause",
    "Client",
    "ClientOptions",
    "ClientStates",
    "ConnectionLost",
    "ConsumerStates",
    "ContextExpiredError",
    "Deferred",
    "DeliveryError",
    "DispatchOptions",
    "ErrorReport",
    "Event",
    "ExecutorBrokenError",
    "Exposure",
    "Group",
    "HandlerTimeoutError",
    "Handlers",
    "HeartbeatError",
    "JobArgumentsError",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobStream",
    "JobTimeoutError",
    "JobUnknownError",
    "LaunchError",
    "LeaseError",
    "LeaseLost",
    "LeaseTimeoutError",
    "LeasedWorker",
    "LogLevel",
    "Machine",
    "MachineDisposedError",
    "MachineError",
    "MachineLog",
    "Mux",
    "NetworkMachine",
    "NotSyncedError",
    "OptionError",
    "Origin",
    "Outcome",
    "PayloadArgs",
    "Pool",
    "PoolError",
    "PoolExecutor",
    "PoolMap",
    "PoolSize",
    "PoolStream",
    "Progress",
    "PromiseBroken",
    "ProtocolError",
    "RefusedError",
    "RpcClient",
    "RpcError",
    "RpcOptions",
    "RpcServer",
    "RpcTimeoutError",
    "Schema",
    "SchemaError",
    "SendPayloadArgs",
    "SimulationError",
    "Snapshot",
    "State",
    "StateArgsError",
    "StateDirectoryError",
    "StateUnknownError",
    "States",
    "Story",
    "StreamTransport",
    "Submitted",
    "Supervisor",
    "SupervisorOptions",
    "SupervisorStates",
    "SyncCall",
    "SyncMap",
    "SyncPool",
    "SyncStream",
    "TlsFiles",
    "WaitTimeoutError",
    "Worker",
    "WorkerConnError",
    "WorkerError",
    "WorkerHealthError",
    "WorkerKillError",
    "WorkerMissingError",
    "WorkerOptions",
    "WorkerRow",
    "WorkerState",
    "WorkerStates",
    "failure_of",
    "in_process_launcher",
    "job",
    "pipe",
    "progress_bar",
    "run_worker",
    "wait_all",
    "wait_any",
]


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'amnode' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return __all__
