"""Ids and environment variables by which the actors know each other."""

from __future__ import annotations

from typing import Final

#: Extra logging of one kind of actor, where the variable is not empty.
LOG_SUPERVISOR: Final = "AM_NODE_LOG_SUPERVISOR"
LOG_CLIENT: Final = "AM_NODE_LOG_CLIENT"
LOG_WORKER: Final = "AM_NODE_LOG_WORKER"

#: Exit codes of a worker's process, beside 0: nobody supervises it; a job, or a hook, does not
#: stop; a job went on past its hard deadline; `on_start` failed.
EXIT_ORPHAN: Final = 70
EXIT_STUCK: Final = 71
EXIT_HARD_DEADLINE: Final = 72
EXIT_SET_UP: Final = 73


def super_client_id(name: str) -> str:
    """The id of a client's connection to its supervisor."""
    return f"nc-super-{name}"


def worker_client_id(name: str) -> str:
    """The id of a client's connection to a worker."""
    return f"nc-worker-{name}"


def supervisor_connection(worker_rpc_id: str) -> str:
    """The id of a client's connection to its supervisor, by that of one to its worker."""
    return worker_rpc_id.replace("nc-worker-", "nc-super-", 1)


def is_peer(connection_id: str) -> bool:
    """Whether a connection is a peer supervisor's: their machines are `ns-NAME`."""
    return connection_id.startswith("rc-ns-")


def operator_id(nonce: str) -> str:
    """The id of an operator's connection to a supervisor; each is of its own."""
    return f"rc-op-{nonce}"


def handshake_id(machine_id: str) -> str:
    """The id by which a machine's RPC client shows itself in a handshake."""
    return f"rc-{machine_id}"


def client_name(connection_id: str) -> str:
    """The name that quotas count by: the id without its prefix and its process's nonce."""
    name = connection_id.removeprefix("rc-")
    name = name.removeprefix("nc-super-").removeprefix("nc-worker-")
    return name.rpartition(".")[0] or name
