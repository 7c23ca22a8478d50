"""The names of the reference: each has its counterpart here, which exists and is used.

The reference is `node`, a package of the Go library asyncmachine. Methods and fields are
written with underscores here, and what is tuned is a field of an options struct; the names of
states and handlers stay as they are.

1. What the reference names exists.
2. Every option is read, every state is set, every error is raised or recorded somewhere.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from pathlib import Path

import msgspec
import pytest

from amnode import errors
from amnode.machine.schema import Schema, States
from amnode.node import client as client_module
from amnode.node.client import Client
from amnode.node.peers import Peers
from amnode.node.policy.options import (
    ClientOptions,
    LeaseTerms,
    PoolSize,
    SupervisorOptions,
    WorkerOptions,
    table,
)
from amnode.node.reporting import Reporting
from amnode.node.states import (
    BootstrapStates,
    ClientStates,
    SupervisorStates,
    WorkerStates,
)
from amnode.node.supervisor import Supervisor
from amnode.node.worker import Worker
from amnode.rpc import states as rpc_states

SOURCE = Path(errors.__file__).parent

# -- what the reference has ------------------------------------------------------------------

#: Name of the reference -> where it is here.
FUNCTIONS = {
    "EnvAmNodeLogSupervisor": "amnode.node.names:LOG_SUPERVISOR",
    "EnvAmNodeLogClient": "amnode.node.names:LOG_CLIENT",
    "APrefix": "amnode.node.node_args:PREFIX",
    "ErrWorker": "amnode.errors:WorkerError",
    "ErrWorkerMissing": "amnode.errors:WorkerMissingError",
    "ErrWorkerHealth": "amnode.errors:WorkerHealthError",
    "ErrWorkerConn": "amnode.errors:WorkerConnError",
    "ErrWorkerKill": "amnode.errors:WorkerKillError",
    "ErrPool": "amnode.errors:PoolError",
    "ErrHeartbeat": "amnode.errors:HeartbeatError",
    "ErrRpc": "amnode.errors:RpcError",
    "AddErrPool": "amnode.node.add_errors:add_err_pool",
    "AddErrPoolStr": "amnode.node.add_errors:add_err_pool",
    "AddErrRpc": "amnode.node.add_errors:add_err_rpc",
    "AddErrWorker": "amnode.node.add_errors:add_err_worker",
    "AddErrWorkerStr": "amnode.node.add_errors:add_err_worker",
    "GetSuperClientId": "amnode.node.names:super_client_id",
    "GetWorkerClientId": "amnode.node.names:worker_client_id",
    "LogArgs": "amnode.node.node_args:log_args",
    "Pass": "amnode.node.node_args:pass_args",
    "PassRpc": "amnode.node.node_args:pass_rpc",
    "A": "amnode.node.node_args:NodeArgs",
    "ARpc": "amnode.node.args:NodeRpcArgs",
    "WorkerState": "amnode.node.listing:WorkerState",
    "StateIniting": "amnode.node.listing:WorkerState.INITING",
    "StateRpc": "amnode.node.listing:WorkerState.RPC",
    "StateIdle": "amnode.node.listing:WorkerState.IDLE",
    "StateBusy": "amnode.node.listing:WorkerState.BUSY",
    "StateReady": "amnode.node.listing:WorkerState.READY",
    "Client": "amnode.node.client:Client",
    "ClientOpts": "amnode.node.policy.options:ClientOptions",
    "Supervisor": "amnode.node.supervisor:Supervisor",
    "SupervisorOpts": "amnode.node.policy.options:SupervisorOptions",
    "Worker": "amnode.node.worker:Worker",
    "WorkerOpts": "amnode.node.policy.options:WorkerOptions",
}

#: Methods and handlers, with fields: of the object, or of its options.
CLIENT = """
    dispose req_worker start stop
    ServerPayloadEnter ServerPayloadState StartEnd StartEnter StartState
    WorkerRequestedEnter WorkerRequestedState
    machine name super_addr log_enabled leave_super conn_timeout rpc_super rpc_worker
"""
SUPERVISOR = """
    check_pool dispose set_pool start stop workers
    ClientConnectedState ClientDisconnectedEnter ClientDisconnectedState ErrWorkerState
    ForkWorkerEnter ForkWorkerState ForkingWorkerEnter ForkingWorkerState HeartbeatState
    KillingWorkerEnter KillingWorkerState ListWorkersEnter ListWorkersState
    NormalizingPoolState PoolReadyEnter PoolReadyExit ProvideWorkerEnter ProvideWorkerState
    SetWorkerEnter SetWorkerState StartEnd StartEnter StartState
    WorkerConnectedEnter WorkerConnectedState WorkerForkedEnter WorkerForkedState
    WorkerKilledEnter WorkerKilledState WorkerReadyState WorkerGoneState KillWorkerState
    ClientSendPayloadState SuperSendPayloadState HealthcheckState
    machine worker_kind worker_bin name log_enabled min max warm max_per_client
    worker_err_ttl worker_err_recent worker_err_kill conn_timeout delivery_timeout op_timeout
    pool_pause healthcheck_pause heartbeat worker_check_interval
    public_addr public_mux public_rpcs local_addr local_rpc
"""
WORKER = """
    start stop
    ErrNetworkState HealthcheckState LocalRpcReadyState PublicRpcReadyState RpcReadyState
    SendPayloadEnter ServeClientEnter ServeClientState StartEnd StartEnter StartState
    machine name kind accept_client conn_timeout delivery_timeout boot_addr boot_rpc
    local_addr local_rpc public_addr public_rpc
"""
NODE_ARGS = """
    id public_addr local_addr boot_addr nodes_list worker_rpc_id super_rpc_id
    worker_rpc bootstrap dispose worker_addr worker_info workers_reply worker_state
"""
NODE_RPC_ARGS = "id public_addr local_addr boot_addr nodes_list worker_rpc_id super_rpc_id"

OPTIONS = (PoolSize, LeaseTerms, SupervisorOptions, WorkerOptions, ClientOptions)
SCHEMAS = (
    SupervisorStates,
    WorkerStates,
    ClientStates,
    BootstrapStates,
    rpc_states.ServerStates,
    rpc_states.ClientStates,
    rpc_states.MuxStates,
    rpc_states.ConsumerStates,
)
#: States that nothing of this package sets, and why that is right.
SET_BY_OTHERS = {
    "WebSocketTunnel": "connections are streams; a tunnel belongs to a transport of the user",
    "SendPayload": "by a program at its source; supervisor and worker have two of their own",
}
#: Those of a connection, which show on a client with a prefix (`amnode.node.client`).
MIRRORED = {
    prefix + state: "the client sets it as it moves"
    for prefix in ("Super", "Worker")
    for state in client_module._MIRRORED  # pyright: ignore[reportPrivateUsage]
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_name_of_the_package(name: str) -> None:
    module, _, path = FUNCTIONS[name].partition(":")
    found: object = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)


@pytest.mark.parametrize("name", CLIENT.split())
def test_a_name_of_the_client(name: str) -> None:
    assert _has(Client, (ClientOptions,), name)


@pytest.mark.parametrize("name", SUPERVISOR.split())
def test_a_name_of_the_supervisor(name: str) -> None:
    options = (SupervisorOptions, PoolSize)
    parts = (Peers, Reporting)  # of its machine
    assert _has(Supervisor, options, name) or any(hasattr(part, name) for part in parts)


@pytest.mark.parametrize("name", WORKER.split())
def test_a_name_of_the_worker(name: str) -> None:
    assert _has(Worker, (WorkerOptions, LeaseTerms), name)


def _has(cls: type, options: tuple[type[msgspec.Struct], ...], name: str) -> bool:
    """Whether objects of the class have it, or it is one of their options."""
    if hasattr(cls, name):
        return True
    if any(name in struct.__struct_fields__ for struct in options):
        return True
    return name in _set_on_self(cls)


def _set_on_self(cls: type) -> list[str]:
    tree = _trees()[cls.__module__.removeprefix("amnode.").replace(".", "/") + ".py"]
    return [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    ]


# -- that what there is is used --------------------------------------------------------------


@cache
def _trees() -> dict[str, ast.Module]:
    return {
        path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(SOURCE.rglob("*.py"))
    }


@cache
def _read_attributes() -> frozenset[str]:
    """The names of all attributes that are read somewhere."""
    return frozenset(
        node.attr
        for tree in _trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    )


@pytest.mark.parametrize(
    "name",
    [f"{cls.__name__}.{option.name}" for cls in OPTIONS for option in table(cls)],
)
def test_an_option_is_read(name: str) -> None:
    assert name.partition(".")[2] in _read_attributes(), "an option that nobody reads"


_CHANGES = ("add", "add1", "add_err_state", "remove", "remove1", "set", "request", "toggle1")


@cache
def _changed_states() -> frozenset[str]:
    """The states that are named where a machine is changed, or shown from a table."""
    found: list[str] = []
    for tree in _trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _last(node.func) in _CHANGES:
                for argument in node.args:
                    found += _states_in(argument)
            elif isinstance(node, ast.Dict):  # a table of what is shown
                for part in (*node.keys, *node.values):
                    found += _states_in(part)
            elif isinstance(node, ast.For):
                found += _states_in(node.iter)
            elif isinstance(node, ast.ListComp):  # the states of a mutation, chosen
                found += _states_in(node)
            elif isinstance(node, ast.Assign) and isinstance(
                node.targets[0], ast.Subscript | ast.Tuple
            ):  # a row of such a table, or names that are looked up once
                found += _states_in(node.value)
    return frozenset(found)


def _last(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _states_in(node: ast.expr | None) -> list[str]:
    if node is None:
        return []
    found: list[str] = []
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            found.append(part.attr)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            found.append(part.value)
    return found


@pytest.mark.parametrize(
    "schema", SCHEMAS, ids=lambda schema: f"{schema.__module__}.{schema.__name__}"
)
def test_every_state_is_set(schema: type[States]) -> None:
    compiled = schema.schema()
    set_ = _changed_states()
    never = [
        name
        for name in compiled.names
        if name not in {*set_, *SET_BY_OTHERS, *MIRRORED} and not _follows(compiled, name)
    ]
    assert never == [], "a state that nobody sets"


def _follows(schema: Schema, name: str) -> bool:
    """Whether it comes by itself: it is auto, or another brings it."""
    return schema[name].auto or any(name in schema[other].add for other in schema.names)


@pytest.mark.parametrize(
    "name",
    [cls for cls in vars(errors) if cls.endswith(("Error", "Lost", "Failed", "Cancelled"))],
)
def test_an_error_is_raised(name: str) -> None:
    if name in ("AmnodeError", "MachineError", "JobError"):
        assert getattr(errors, name).__subclasses__()  # the heads of their branches
        return
    made = [
        path
        for path, tree in _trees().items()
        for node in ast.walk(tree)
        if path != "errors.py"
        and isinstance(node, ast.Name | ast.Attribute)
        and _last(node) == name
    ]
    assert made, "an error that nobody raises"
