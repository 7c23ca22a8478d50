"""NodeArgs: the arguments of the node's states inside one program, by their known names.

`NodeRpcArgs` is the part that may cross the wire; whatever else is here cannot. Mutations take
their arguments as one object, so those of several packages share it by prefix: `pass_args`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from amnode.node.args import NodeRpcArgs, WorkerInfo

if TYPE_CHECKING:
    from asyncio import Future

    from amnode.node.bootstrap import Bootstrap
    from amnode.node.listing import WorkerState
    from amnode.node.operator_args import WorkerRow
    from amnode.rpc.client import RpcClient

#: The key of the node's arguments beside those of others, and in a log.
PREFIX: Final = "am_node"


class NodeArgs(NodeRpcArgs, frozen=True, kw_only=True):
    """What the node's handlers hand to each other.

    Attributes:
        worker_rpc: the connection to a worker.
        bootstrap: where a worker calls first.
        dispose: whether the worker's machine is to end, too.
        worker_addr: of a worker, by which it is known.
        worker_info: what a worker said of itself.
        worker_state: which workers to list.
        workers_reply: where that list goes.
    """

    worker_rpc: RpcClient | None = None
    bootstrap: Bootstrap | None = None
    dispose: bool = False
    worker_addr: str = ""
    worker_info: WorkerInfo | None = None
    worker_state: WorkerState | None = None
    workers_reply: Future[list[WorkerRow]] | None = None


def pass_args(args: NodeArgs) -> dict[str, NodeArgs]:
    """The arguments for a mutation inside this program, beside those of others."""
    return {PREFIX: args}


def pass_rpc(args: NodeRpcArgs) -> NodeRpcArgs:
    """The arguments for a mutation of another program's machine: what may cross."""
    fields = NodeRpcArgs.__struct_fields__
    return NodeRpcArgs(**{name: getattr(args, name) for name in fields})


def log_args(args: object) -> dict[str, str]:
    """What of a mutation's arguments belongs into a log: ids and addresses, if any.

    Args:
        args: of a mutation: `NodeRpcArgs`, `NodeArgs`, or what `pass_args` makes of those.
    """
    if isinstance(args, dict):
        args = args.get(PREFIX)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(args, NodeRpcArgs):
        return {}
    return {
        name: str(value)
        for name in NodeRpcArgs.__struct_fields__
        if name != "nodes_list" and (value := getattr(args, name))
    }
