"""What the machines of a connection say of it: schemas of server, client, mux and consumer.

Where a state redefines an inherited one it replaces it whole. Two relations differ from the
reference, so that no error goes unrecorded and nothing is ready that was not started: `Ready`
requires `Start` wherever it is redefined, and the server's `HandshakeDone` does not remove
`Exception` (its driver clears it).
"""

from __future__ import annotations

from amnode.machine.mixins import Basic, Connected, StateSource
from amnode.machine.schema import State, States


class SharedStates(Basic, StateSource):
    """Server and client. Group Handshake: Handshaking, HandshakeDone."""

    ErrNetwork = State(require=("Exception",))
    "A network error; not multi, so it has to be handled."
    ErrNetworkTimeout = State(require=("Exception",))
    "A peer did not answer in time."
    ErrRpc = State(require=("Exception",))
    "A peer broke the protocol or a call failed."
    ErrDelivery = State(require=("Exception",))
    "A payload that arrived was not usable."
    Handshaking = State(require=("Start",), remove=("HandshakeDone",))
    "Hello was exchanged."
    HandshakeDone = State(require=("Start",), remove=("Handshaking",))
    "Both sides accepted; the peer can be used."

    _order_ = (
        "Exception",
        "ErrNetworkTimeout",
        "ErrRpc",
        "ErrDelivery",
        "HandshakeDone",
        "Handshaking",
        "ErrNetwork",
        "ErrHandlerTimeout",
        "Start",
        "Ready",
        "Healthcheck",
        "Heartbeat",
        "ErrOnClient",
        "ErrProviding",
        "ErrSendPayload",
        "SendPayload",
    )


class ServerStates(SharedStates):
    """One source, one client. Group Rpc: RpcStarting, RpcAccepting, RpcReady."""

    ErrNetwork = State(require=("Exception",), remove=("ClientConnected",))
    "A network error; the client is gone with it."
    Start = State(add=("RpcStarting",))
    "The server is meant to run."
    Ready = State(auto=True, require=("Start", "HandshakeDone", "RpcReady"))
    "A client can use the source."
    RpcStarting = State(require=("Start",), remove=("RpcAccepting", "RpcReady"))
    "The listener is being opened."
    RpcAccepting = State(require=("Start",), remove=("RpcStarting", "RpcReady"))
    "Accepting is being set up."
    RpcReady = State(require=("Start",), remove=("RpcStarting", "RpcAccepting"))
    "Accepting, or has accepted."
    ClientConnected = State(require=("RpcReady",))
    "A client has a connection, not yet shaken hands."
    HandshakeDone = State(require=("Start", "ClientConnected"), remove=("Handshaking",))
    "Both sides accepted; the client can use the source."
    MetricSync = State(multi=True)
    "Counts full resyncs that the client asked for."
    WebSocketTunnel = State()
    "TCP is carried over a WebSocket that the server dialled."

    _order_ = (
        "Exception",
        "Ready",
        "RpcStarting",
        "RpcAccepting",
        "RpcReady",
        "ClientConnected",
        "HandshakeDone",
        "MetricSync",
        "WebSocketTunnel",
        "ErrNetworkTimeout",
        "ErrRpc",
        "ErrDelivery",
        "Handshaking",
        "ErrNetwork",
        "ErrHandlerTimeout",
        "Start",
        "Healthcheck",
        "Heartbeat",
        "ErrOnClient",
        "ErrProviding",
        "ErrSendPayload",
        "SendPayload",
    )


class ClientStates(SharedStates, Connected):
    """A connection to a source. Groups: Handshake, Connected."""

    ErrNetwork = State(require=("Exception",), remove=("Connecting",))
    "A network error; no connection is made while it is there."
    Start = State(add=("Connecting",), remove=("ConnRetryFailed",))
    "The client is meant to run."
    Ready = State(auto=True, require=("Start", "HandshakeDone"))
    "The replica is usable."
    Connected = State(
        require=("Start",),
        add=("Handshaking",),
        remove=("Connecting", "Disconnecting", "Disconnected", "RetryingConn"),
    )
    "A connection exists."
    Handshaking = State(require=("Start", "Connected"), remove=("HandshakeDone",))
    "Hello was exchanged."
    HandshakeDone = State(require=("Start", "Connected"), remove=("Handshaking",))
    "Both sides accepted; the source can be used."
    RetryingCall = State(require=("Start",))
    "A call is being tried again."
    CallRetryFailed = State(add=("ErrNetwork", "Exception"), remove=("RetryingCall",))
    "A call was given up; its handler removes it."
    RetryingConn = State(require=("Start",))
    "The connection is being tried again."
    ConnRetryFailed = State(remove=("Start",))
    "The connection was given up."
    ServerDelivering = State(multi=True, require=("Connected",))
    "The server announced a payload; optional."
    ServerPayload = State(multi=True, require=("Connected",))
    "A payload arrived; passed on to the consumer."
    MetricSync = State(multi=True)
    "Counts full resyncs."

    _order_ = (
        "Exception",
        "RetryingCall",
        "CallRetryFailed",
        "RetryingConn",
        "ConnRetryFailed",
        "Ready",
        "HandshakeDone",
        "ServerDelivering",
        "ServerPayload",
        "MetricSync",
        "ErrNetworkTimeout",
        "ErrRpc",
        "ErrDelivery",
        "Handshaking",
        "ErrNetwork",
        "ErrHandlerTimeout",
        "Start",
        "Healthcheck",
        "Heartbeat",
        "ErrOnClient",
        "ErrProviding",
        "ErrSendPayload",
        "SendPayload",
        "ErrConnecting",
        "Connecting",
        "Connected",
        "Disconnecting",
        "Disconnected",
    )


class MuxStates(Basic):
    """One listener, a server for each client."""

    Exception = State(multi=True, remove=("Ready",))
    "An error has not been handled."
    Ready = State(require=("Start",))
    "Accepting."
    ClientConnected = State(multi=True, require=("Start",))
    "A connection was accepted; removes itself."
    HasClients = State(require=("Start",))
    "At least one client."
    NewServerErr = State()
    "No server could be made for a connection; the mux goes on."

    _order_ = (
        "Exception",
        "Ready",
        "ClientConnected",
        "HasClients",
        "NewServerErr",
        "ErrNetwork",
        "ErrHandlerTimeout",
        "Start",
        "Healthcheck",
        "Heartbeat",
    )


class ConsumerStates(States):
    """What receives the payloads of a client."""

    Exception = State(multi=True)
    "An error has not been handled."
    ServerPayload = State(multi=True)
    "A payload from the server."

    _order_ = ("Exception", "ServerPayload")
