"""The schemas against their tables: kinds, relations and the order of the ticks.

Where the tables contradict each other or the workflow, what is right stands here: a redefined
Ready still requires Start, and the server's HandshakeDone does not remove Exception.
"""

from __future__ import annotations

import re

import pytest

from amnode.errors import SchemaError
from amnode.machine import mixins
from amnode.machine.machine import Machine
from amnode.machine.queue import CANCELED, EXECUTED
from amnode.machine.schema import Relations, Schema, State, States
from amnode.rpc import states

#: State, kinds, relations; a line that is indented further continues the one above. A schema
#: has the rows of what it inherits, too, unless it has one of its own.
TABLES = {
    "Basic": """
        Exception multi
        ErrNetwork multi require=Exception add=Exception
        ErrHandlerTimeout multi require=Exception add=Exception
        Start
        Ready require=Start
        Healthcheck multi
        Heartbeat
        order: Exception ErrNetwork ErrHandlerTimeout Start Ready Healthcheck Heartbeat
    """,
    "Connected": """
        ErrConnecting require=Exception
        Connecting require=Start remove=Connected,Disconnecting,Disconnected
        Connected require=Start remove=Connecting,Disconnecting,Disconnected
        Disconnecting remove=Connecting,Connected,Disconnected
        Disconnected auto remove=Connecting,Connected,Disconnecting
        order: ErrConnecting Connecting Connected Disconnecting Disconnected Exception
    """,
    "ConnPool": """
        ErrConnecting require=Exception
        Connecting require=Start remove=Disconnecting
        Connected require=Start remove=Disconnected
        ConnectedFully require=Connected remove=Disconnected
        Disconnecting remove=ConnectedFully,Connected,Connecting
        Disconnected remove=Connecting,ConnectedFully,Disconnecting
        order: ErrConnecting Connecting Connected ConnectedFully Disconnecting Disconnected
            Exception
    """,
    "Disposed": """
        RegisterDisposal multi
        Disposing remove=Start
        Disposed remove=Disposing,Start
        order: Exception RegisterDisposal Disposing Disposed
    """,
    "StateSource": """
        ErrOnClient require=Exception
        ErrProviding require=Exception
        ErrSendPayload require=Exception
        SendPayload multi
        order: Exception ErrOnClient ErrProviding ErrSendPayload SendPayload
    """,
    "Shared": """
        ErrNetwork require=Exception
        ErrNetworkTimeout require=Exception
        ErrRpc require=Exception
        ErrDelivery require=Exception
        Handshaking require=Start remove=HandshakeDone
        HandshakeDone require=Start remove=Handshaking
        order: Exception ErrNetworkTimeout ErrRpc ErrDelivery HandshakeDone Handshaking
            ErrNetwork ErrHandlerTimeout Start Ready Healthcheck Heartbeat
            ErrOnClient ErrProviding ErrSendPayload SendPayload
    """,
    "Server": """
        ErrNetwork require=Exception remove=ClientConnected
        Start add=RpcStarting
        Ready auto require=Start,HandshakeDone,RpcReady
        RpcStarting require=Start remove=RpcAccepting,RpcReady
        RpcAccepting require=Start remove=RpcStarting,RpcReady
        RpcReady require=Start remove=RpcStarting,RpcAccepting
        ClientConnected require=RpcReady
        HandshakeDone require=Start,ClientConnected remove=Handshaking
        MetricSync multi
        WebSocketTunnel
        order: Exception Ready RpcStarting RpcAccepting RpcReady ClientConnected
            HandshakeDone MetricSync WebSocketTunnel ErrNetworkTimeout ErrRpc
            ErrDelivery Handshaking ErrNetwork ErrHandlerTimeout Start Healthcheck
            Heartbeat ErrOnClient ErrProviding ErrSendPayload SendPayload
    """,
    "Client": """
        ErrNetwork require=Exception remove=Connecting
        Start add=Connecting remove=ConnRetryFailed
        Ready auto require=Start,HandshakeDone
        Connected require=Start add=Handshaking
            remove=Connecting,Disconnecting,Disconnected,RetryingConn
        Handshaking require=Start,Connected remove=HandshakeDone
        HandshakeDone require=Start,Connected remove=Handshaking
        RetryingCall require=Start
        CallRetryFailed add=ErrNetwork,Exception remove=RetryingCall
        RetryingConn require=Start
        ConnRetryFailed remove=Start
        ServerDelivering multi require=Connected
        ServerPayload multi require=Connected
        MetricSync multi
        order: Exception RetryingCall CallRetryFailed RetryingConn ConnRetryFailed Ready
            HandshakeDone ServerDelivering ServerPayload MetricSync
            ErrNetworkTimeout ErrRpc ErrDelivery Handshaking ErrNetwork
            ErrHandlerTimeout Start Healthcheck Heartbeat ErrOnClient ErrProviding
            ErrSendPayload SendPayload ErrConnecting Connecting Connected
            Disconnecting Disconnected
    """,
    "Mux": """
        Exception multi remove=Ready
        Ready require=Start
        ClientConnected multi require=Start
        HasClients require=Start
        NewServerErr
        order: Exception Ready ClientConnected HasClients NewServerErr ErrNetwork
            ErrHandlerTimeout Start Healthcheck Heartbeat
    """,
    "Consumer": """
        Exception multi
        ServerPayload multi
        order: Exception ServerPayload
    """,
}


class Connected(mixins.Connected):
    Start = State()


class ConnPool(mixins.ConnPool):
    Start = State()


class Disposed(mixins.Disposed):
    Start = State()


#: The class of each table, and the tables that it inherits, nearest last.
CLASSES: dict[str, tuple[type[States], tuple[str, ...]]] = {
    "Basic": (mixins.Basic, ()),
    "Connected": (Connected, ()),
    "ConnPool": (ConnPool, ()),
    "Disposed": (Disposed, ()),
    "StateSource": (mixins.StateSource, ()),
    "Shared": (states.SharedStates, ("StateSource", "Basic")),
    "Server": (states.ServerStates, ("StateSource", "Basic", "Shared")),
    "Client": (states.ClientStates, ("Connected", "StateSource", "Basic", "Shared")),
    "Mux": (states.MuxStates, ("Basic",)),
    "Consumer": (states.ConsumerStates, ()),
}


def rows(table: str) -> tuple[dict[str, Relations], tuple[str, ...]]:
    """The states of a table, and the order that it gives."""
    found: dict[str, Relations] = {}
    order: tuple[str, ...] = ()
    for line in re.sub(r"\n {12}", " ", TABLES[table]).strip().splitlines():
        name, *cells = line.split()
        if name == "order:":
            order = tuple(cells)
            continue
        relations = dict(cell.split("=") for cell in cells if "=" in cell)
        each = {kind: tuple(names.split(",")) for kind, names in relations.items()}
        found[name] = Relations(
            "auto" in cells,
            "multi" in cells,
            each.get("require", ()),
            each.get("add", ()),
            each.get("remove", ()),
            each.get("after", ()),
            (),
        )
    return found, order


@pytest.mark.parametrize("table", TABLES)
def test_a_schema_is_what_its_table_says(table: str) -> None:
    class_, inherited = CLASSES[table]
    own, order = rows(table)
    expected: dict[str, Relations] = {}
    for base in inherited:
        expected |= rows(base)[0]
    expected |= own
    schema = class_.schema()
    if "Start" not in expected:  # of the schema that mixes it in
        expected["Start"] = Relations(False, False, (), (), (), (), ())
    if "Exception" not in expected:
        expected["Exception"] = Relations(False, True, (), (), (), (), ())
    assert {name: schema[name] for name in schema} == {name: expected[name] for name in schema}
    assert set(expected) - set(schema) <= {"Start"}
    assert tuple(name for name in schema.names if name in order) == order
    assert set(schema.names) - set(order) <= {"Start"}


@pytest.mark.parametrize("mixin", [mixins.Connected, mixins.ConnPool, mixins.Disposed])
def test_a_mixin_that_needs_start_is_not_valid_alone(mixin: type[States]) -> None:
    with pytest.raises(SchemaError, match="Start"):
        Schema({name: value for name, value in vars(mixin).items() if isinstance(value, State)})


def test_an_error_on_a_server_with_a_live_client_is_recorded() -> None:
    server = Machine(states.ServerStates, id="rs")
    for state in ("Start", "RpcAccepting", "RpcReady", "ClientConnected", "HandshakeDone"):
        assert server.add1(state) is EXECUTED
    assert server.is1("Ready")
    assert server.add_err_state("ErrRpc", ValueError("x")) is EXECUTED
    assert server.is_(("ErrRpc", "Exception", "HandshakeDone"))


def test_while_a_network_error_is_there_nothing_connects() -> None:
    server = Machine(states.ServerStates, id="rs")
    server.add1("Start")
    server.add1("RpcReady")
    server.add_err_state("ErrNetwork", ValueError("x"))
    assert server.add1("ClientConnected") is CANCELED
    client = Machine(states.ClientStates, id="rc")
    client.add_err_state("ErrNetwork", ValueError("x"))
    assert client.add(("Start", "Connecting")) is CANCELED
    client.remove(("ErrNetwork", "Exception"))
    assert client.add(("Start", "Connecting")) is EXECUTED
