"""The schemas, against their tables as data."""

from __future__ import annotations

import pytest

from amnode.machine.schema import States
from amnode.node.states import BootstrapStates, ClientStates, SupervisorStates, WorkerStates

# name: (kind, require, add, remove, after), each a text of words; in the order of the ticks.
Row = tuple[str, str, str, str, str]
_ERR: Row = ("", "Exception", "", "", "")
_EVENT: Row = ("multi", "", "", "", "")
_STARTED: Row = ("", "Start", "", "", "")
_STARTED_EVENT: Row = ("multi", "Start", "", "", "")
_PLAIN: Row = ("", "", "", "", "")
_NETWORK: dict[str, Row] = {
    "ErrNetwork": ("multi", "Exception", "Exception", "", ""),
    "ErrHandlerTimeout": ("multi", "Exception", "Exception", "", ""),
}
_SOURCE: dict[str, Row] = {
    "ErrOnClient": _ERR,
    "ErrProviding": _ERR,
    "ErrSendPayload": _ERR,
}
_NO_SEND: Row = ("", "", "ErrSendPayload Exception", "", "")

SUPERVISOR: dict[str, Row] = {
    "Exception": _EVENT,
    "ErrWorker": ("", "Exception", "NormalizingPool Heartbeat", "", ""),
    "ErrPool": ("", "Exception", "NormalizingPool", "PoolNormalized", ""),
    "LocalRpcReady": _STARTED,
    "PublicRpcReady": _STARTED,
    "Ready": ("auto", "Start LocalRpcReady PublicRpcReady PoolReady", "", "", ""),
    "Heartbeat": _STARTED,
    "PoolStarting": ("", "", "NormalizingPool", "PoolReady", ""),
    "NormalizingPool": ("", "Start", "", "PoolNormalized", "ErrWorker"),
    "PoolNormalized": ("", "Start", "Heartbeat", "NormalizingPool", ""),
    "PoolReady": ("", "Start", "Heartbeat", "PoolStarting", ""),
    "WorkersAvailable": ("", "PoolReady", "", "", ""),
    "ListWorkers": _STARTED_EVENT,
    "SetWorker": _STARTED_EVENT,
    "ForkWorker": _STARTED_EVENT,
    "ForkingWorker": _STARTED_EVENT,
    "WorkerConnected": _STARTED_EVENT,
    "WorkerForked": ("multi", "Start", "Heartbeat", "", ""),
    "KillWorker": _EVENT,
    "KillingWorker": _EVENT,
    "WorkerKilled": ("multi", "", "NormalizingPool Heartbeat", "", ""),
    "WorkerReady": _STARTED_EVENT,
    "WorkerGone": _STARTED_EVENT,
    "ClientConnected": _EVENT,
    "ClientDisconnected": _EVENT,
    "ProvideWorker": _STARTED_EVENT,
    "WorkerIssues": _EVENT,
    "ClientSendPayload": _EVENT,
    "SuperConnected": _EVENT,
    "SuperDisconnected": _EVENT,
    "SuperSendPayload": _EVENT,
    **_NETWORK,
    "Start": ("", "", "PoolStarting", "", ""),
    "Healthcheck": _EVENT,
    **_SOURCE,
    "SendPayload": _NO_SEND,
    "SetPool": _STARTED_EVENT,
    "RollingRestart": _STARTED_EVENT,
    "Draining": _STARTED,
    "Drained": ("", "Draining", "", "", ""),
    "Inspect": _STARTED_EVENT,
    "ReachWorker": _STARTED_EVENT,
    "ListCrashes": _STARTED_EVENT,
    "ReadOutput": _STARTED_EVENT,
}

WORKER: dict[str, Row] = {
    "Exception": _EVENT,
    "ErrWork": _ERR,
    "ErrWorkTimeout": _ERR,
    "ErrClient": _ERR,
    "ErrSupervisor": _ERR,
    "Ready": ("", "Start LocalRpcReady", "", "", ""),
    "LocalRpcReady": _STARTED,
    "PublicRpcReady": _STARTED,
    "RpcReady": ("auto", "LocalRpcReady PublicRpcReady", "", "", ""),
    "SuperConnected": _STARTED,
    "ServeClient": ("", "PublicRpcReady", "", "", ""),
    "ClientConnected": _STARTED,
    "ClientSendPayload": ("multi", "PublicRpcReady", "", "", ""),
    "SuperSendPayload": ("multi", "LocalRpcReady", "", "", ""),
    "Idle": ("auto", "Ready", "", "WorkRequested Working WorkReady", ""),
    "WorkRequested": ("", "Ready", "", "Working WorkReady Idle", ""),
    "Working": ("", "Ready", "", "WorkRequested WorkReady Idle", ""),
    "WorkReady": ("", "Ready", "", "WorkRequested Working Idle", ""),
    **_NETWORK,
    "Start": _PLAIN,
    "Healthcheck": _EVENT,
    "Heartbeat": _PLAIN,
    **_SOURCE,
    "SendPayload": _NO_SEND,
    "Leased": _STARTED,
    "Releasing": ("", "Leased", "", "", ""),
    "Inspect": _STARTED_EVENT,
    "ServeOperator": ("multi", "LocalRpcReady", "", "", ""),
    "SettingUp": _STARTED,
    "LeaseSettingUp": ("", "Leased", "", "", ""),
    "TearingDown": _PLAIN,
    "Progressing": ("multi", "Ready", "", "", ""),
}

CLIENT: dict[str, Row] = {
    "Exception": _EVENT,
    "ErrWorker": _ERR,
    "ErrSupervisor": _ERR,
    "WorkerDisconnected": _PLAIN,
    "WorkerConnecting": _PLAIN,
    "WorkerConnected": _PLAIN,
    "WorkerDisconnecting": _PLAIN,
    "WorkerReady": _PLAIN,
    "Ready": ("auto", "Start WorkerReady", "", "", ""),
    "SuperDisconnected": _PLAIN,
    "SuperConnecting": _PLAIN,
    "SuperConnected": _PLAIN,
    "SuperDisconnecting": _PLAIN,
    "SuperReady": _PLAIN,
    "WorkerRequested": ("", "SuperReady", "", "", ""),
    **_NETWORK,
    "Start": _PLAIN,
    "Healthcheck": _EVENT,
    "Heartbeat": _PLAIN,
    "ServerPayload": _EVENT,
}

BOOTSTRAP: dict[str, Row] = {
    "Exception": _EVENT,
    "WorkerAddr": _PLAIN,
    **_NETWORK,
    "Start": _PLAIN,
    "Ready": _STARTED,
    "Healthcheck": _EVENT,
    "Heartbeat": _PLAIN,
    **_SOURCE,
    "SendPayload": _EVENT,
}


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (SupervisorStates, SUPERVISOR),
        (WorkerStates, WORKER),
        (ClientStates, CLIENT),
        (BootstrapStates, BOOTSTRAP),
    ],
)
def test_schema_is_as_the_table_says(states: type[States], expected: dict[str, Row]) -> None:
    schema = states.schema()
    assert schema.names == tuple(expected)
    for name, (kind, require, add, remove, after) in expected.items():
        state = schema[name]
        assert (state.auto, state.multi) == (kind == "auto", kind == "multi"), name
        assert set(state.require) == set(require.split()), name
        assert set(state.add) == set(add.split()), name
        assert set(state.remove) == set(remove.split()), name
        assert set(state.after) == set(after.split()), name


def test_names_are_constants() -> None:
    assert WorkerStates.Leased == "Leased"
    assert SupervisorStates.Start == "Start"
