"""NodeArgs: what goes along inside a program, what may leave it, and what a log shows."""

from __future__ import annotations

import msgspec
import pytest

from amnode.node.args import NodeRpcArgs
from amnode.node.node_args import PREFIX, NodeArgs, log_args, pass_args, pass_rpc

ARGS = NodeArgs(id="nw-1", local_addr="unix:/l", nodes_list=("a", "b"), dispose=True)


def test_what_goes_along_stands_under_the_prefix() -> None:
    assert pass_args(ARGS) == {"am_node": ARGS}
    assert PREFIX == "am_node"


def test_only_what_may_cross_crosses() -> None:
    passed = pass_rpc(ARGS)
    assert type(passed) is NodeRpcArgs
    assert passed == NodeRpcArgs(id="nw-1", local_addr="unix:/l", nodes_list=("a", "b"))
    assert "dispose" not in msgspec.to_builtins(passed)


@pytest.mark.parametrize("args", [ARGS, pass_rpc(ARGS), pass_args(ARGS)])
def test_a_log_shows_ids_and_addresses(args: object) -> None:
    assert log_args(args) == {"id": "nw-1", "local_addr": "unix:/l"}


@pytest.mark.parametrize("args", [None, "text", {}, {"other": ARGS}])
def test_a_log_shows_nothing_of_other_arguments(args: object) -> None:
    assert log_args(args) == {}
