"""The schemas that actors inherit: Basic, Connected, ConnPool, Disposed, StateSource.

Schemas only, no behaviour. Mixing one in replaces nothing but states of the same name, whole.
`Connected`, `ConnPool` and `Disposed` need `Start` from the schema that mixes them in: they are
not valid alone. In a group of states of which one is active at a time, each removes the others.
"""

from __future__ import annotations

from amnode.machine.schema import State, States


class Basic(States):
    """What every actor has: errors, a wish to run, readiness, and its checks."""

    Exception = State(multi=True)
    "An error has not been handled."
    ErrNetwork = State(multi=True, require=("Exception",), add=("Exception",))
    "A network error."
    ErrHandlerTimeout = State(multi=True, require=("Exception",), add=("Exception",))
    "A handler held the machine too long."
    Start = State()
    "The machine is meant to run; removing it stops it."
    Ready = State(require=("Start",))
    "It can do its work."
    Healthcheck = State(multi=True)
    "A probe is being answered; its handler removes it."
    Heartbeat = State()
    "A periodic self-check is running."

    _order_ = (
        "Exception",
        "ErrNetwork",
        "ErrHandlerTimeout",
        "Start",
        "Ready",
        "Healthcheck",
        "Heartbeat",
    )


class Connected(States):
    """One connection. Needs `Start`. Group: the four states below ErrConnecting."""

    ErrConnecting = State(require=("Exception",))
    "A connection attempt failed with a reason."
    Connecting = State(
        require=("Start",), remove=("Connected", "Disconnecting", "Disconnected")
    )
    "A connection is being made."
    Connected = State(
        require=("Start",), remove=("Connecting", "Disconnecting", "Disconnected")
    )
    "A connection exists."
    Disconnecting = State(remove=("Connecting", "Connected", "Disconnected"))
    "It is being closed."
    Disconnected = State(auto=True, remove=("Connecting", "Connected", "Disconnecting"))
    "There is none."

    _order_ = (
        "ErrConnecting",
        "Connecting",
        "Connected",
        "Disconnecting",
        "Disconnected",
        "Exception",
    )


class ConnPool(States):
    """Many connections as one. Needs `Start`. Group Connected: Connected, Disconnected."""

    ErrConnecting = State(require=("Exception",))
    "An attempt failed with a reason."
    Connecting = State(require=("Start",), remove=("Disconnecting",))
    "At least one is being made."
    Connected = State(require=("Start",), remove=("Disconnected",))
    "At least one exists."
    ConnectedFully = State(require=("Connected",), remove=("Disconnected",))
    "All exist."
    Disconnecting = State(remove=("ConnectedFully", "Connected", "Connecting"))
    "All are being closed."
    Disconnected = State(remove=("Connecting", "ConnectedFully", "Disconnecting"))
    "None exists."

    _order_ = (
        "ErrConnecting",
        "Connecting",
        "Connected",
        "ConnectedFully",
        "Disconnecting",
        "Disconnected",
        "Exception",
    )


class Disposed(States):
    """Disposal by states: adding `Disposing` disposes the machine. Needs `Start`."""

    RegisterDisposal = State(multi=True)
    "A disposal hook is being added; a multi event."
    Disposing = State(remove=("Start",))
    "Hooks run, in the order registered."
    Disposed = State(remove=("Disposing", "Start"))
    "They have run; the machine is dropped next."

    _order_ = ("Exception", "RegisterDisposal", "Disposing", "Disposed")


class StateSource(States):
    """What a machine must have to be exposed over RPC when it has handlers."""

    ErrOnClient = State(require=("Exception",))
    "The error was added through a replica, not at the source."
    ErrProviding = State(require=("Exception",))
    "The source could not produce a requested payload."
    ErrSendPayload = State(require=("Exception",))
    "A payload could not be sent."
    SendPayload = State(multi=True)
    "A payload is handed to the server for its client; a multi event."

    _order_ = ("Exception", "ErrOnClient", "ErrProviding", "ErrSendPayload", "SendPayload")
