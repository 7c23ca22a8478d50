"""Warm: what every worker of a class would make by itself, made once before they are forked.

Handlers are found, plans of mutations compiled and functions specialized by using them once, on
machines that nobody sees. It costs the fork server a few milliseconds, and saves each worker
some, and memory that all of them then share.

1. Nothing of the class runs: no `__init__`, no handler, no job.
2. What is wrong with the class is not said here: each worker that starts says it.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from amnode.errors import AmnodeError
from amnode.machine.machine import Machine
from amnode.node.class_name import load
from amnode.node.jobs import jobs_of
from amnode.node.states import BootstrapStates
from amnode.node.worker import Worker
from amnode.rpc.client import RpcClient
from amnode.rpc.mux import Mux
from amnode.rpc.states import ServerStates

#: A connection's life, as its two ends see it.
_CLIENT = ("Connecting", "Connected", "Handshaking", "HandshakeDone", "Disconnecting")
_SERVER = ("Start", "RpcAccepting", "RpcReady", "ClientConnected", "HandshakeDone")
_MUX = ("Start", "Ready", "ClientConnected", "HasClients")

#: What was made stays, so that nothing of it is freed in each child.
kept: list[Any] = []


class Target(msgspec.Struct, frozen=True):
    """The class and its script, as `class_name.name_of` says."""

    name: str
    script: bytes


def prepare(payload: bytes) -> None:
    """Loads the class in a fork server, and makes what its workers have in common."""
    target = msgspec.msgpack.decode(payload, type=Target)
    cls = load(target.name, os.fsdecode(target.script))
    if not issubclass(cls, Worker):
        return
    try:
        machine = Machine(cls.schema, id="warm")
        machine.bind(object.__new__(cls))
        kept.append((machine, jobs_of(cls)))
    except AmnodeError:  # rule 2
        return
    _connections()


def _connections() -> None:
    source = Machine(BootstrapStates, id="warm")
    mux = Mux(source, "memory:warm", name="warm", secret_of=lambda _client, _role: None)
    schema = BootstrapStates.schema()
    client = RpcClient("memory:warm", id="rc-warm", secret=b"warm", schema=schema)
    server = Machine(ServerStates, id="warm")
    client.machine.add(("Start", "Connecting"))
    for machine, states in (
        (mux.machine, _MUX),
        (client.machine, _CLIENT),
        (server, _SERVER),
    ):
        for state in states:
            machine.add1(state)
        machine.remove1("Start")
    kept.append((source, mux, client, server))
