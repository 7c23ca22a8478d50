"""Peers: the supervisors of one kind that help each other out.

Each connects to the local servers of those that it was told of. What a peer has to spare it
says there (`PeerNews`); a request is passed on by the same states by which a client asks, and
what there is to say to the client comes back as a `PeerAnswer`.

    client -> first supervisor -> peer -> ServeClient -> the peer's worker
    client <- first supervisor <- peer       and then the client and that worker talk directly

Rules:

1. Who is asked for what is decided by `policy.passing`; here is only what is said and heard.
2. A client of a peer is a *guest*: to the core, a client of its own, by an id that has both the
   connection and the client in it. Guests go with the connection.
3. Each connection has a fresh id, so that one that was cut is not in the way of the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from amnode.errors import AmnodeError, ConnectionLost, RpcError
from amnode.machine.machine import Machine
from amnode.machine.transition import Event
from amnode.node import operating
from amnode.node.add_errors import add_err_rpc
from amnode.node.args import (
    Denied,
    Grant,
    NodeRpcArgs,
    PeerAnswer,
    PeerNews,
    ProvideWorkerArgs,
    SendPayloadArgs,
    Wire,
    WorkerCrashed,
    WorkerIssuesArgs,
)
from amnode.node.names import handshake_id, is_peer
from amnode.node.outside import Outside
from amnode.node.policy import events
from amnode.node.policy.options import SupervisorOptions
from amnode.node.policy.waitlist import Waiter
from amnode.node.states import SupervisorStates
from amnode.rpc.client import RpcClient
from amnode.rpc.mux import Mux
from amnode.rpc.network_machine import RemoteResult
from amnode.rpc.options import ONE_CONNECTION
from amnode.rpc.origin import Origin
from amnode.rpc.server import RpcServer

logger = logging.getLogger("amnode.node")

S = SupervisorStates

#: What operators and peers may change, through the local server.
LOCAL = msgspec.structs.replace(
    operating.EXPOSURE,
    mutable={
        **operating.EXPOSURE.mutable,
        S.ProvideWorker: ProvideWorkerArgs,
        S.WorkerIssues: WorkerIssuesArgs,
        S.ClientDisconnected: NodeRpcArgs,
    },
)

#: Seconds between tries to reach a peer: the first, and the most.
_BACK_OFF_BASE, _BACK_OFF_CAP = 0.05, 5.0

#: What the core asks of a peer.
PeerAction: TypeAlias = events.PassOn | events.TakeBack | events.GiveBack | events.TellGone


class Peers:
    """The peers of one supervisor, those that it asks and those that ask it.

    Args:
        machine: the supervisor's.
        addrs: local addresses of peers to ask.
        token: that all of them have.
        kind: of the workers.
        schema_hash: of their schema.
        opts: the supervisor's options.
        feed: tells the core of an event.
        send: tells a client of the supervisor something.
        outside: what they touch.

    Attributes:
        local: the supervisor's own local server.
    """

    def __init__(
        self,
        machine: Machine,
        addrs: Sequence[str],
        *,
        token: bytes,
        kind: str,
        schema_hash: str,
        opts: SupervisorOptions,
        feed: Callable[[events.Event], None],
        send: Callable[[str, Wire], None],
        outside: Outside,
    ) -> None:
        self.local: Mux | None = None
        self._machine = machine
        self._addrs = tuple(addrs)
        self._token = token
        self._kind = kind
        self._schema_hash = schema_hash
        self._opts = opts
        self._feed = feed
        self._send_client = send
        self._outside = outside
        self._rpcs: dict[str, RpcClient] = {}
        self._guests: dict[str, tuple[str, str]] = {}  # guest -> its peer's connection, itself
        self._spare = 0
        machine.bind(self)

    # -- the peers that are asked ------------------------------------------------------------

    def start(self) -> None:
        """Connects to every peer, and again whenever it is lost, while the supervisor runs."""
        for address in self._addrs:
            self._machine.spawn(S.Start, self._keep(address))

    async def _keep(self, address: str) -> None:
        failures = 0
        while True:
            try:
                await self._follow(address)
                failures = 0
            except (AmnodeError, OSError, TimeoutError) as error:
                failures += 1
                if failures == 1:  # told once, however long it lasts
                    lost = f"No connection to the peer supervisor at {address}: {error}"
                    add_err_rpc(self._machine, ConnectionLost(lost))
                pause = min(_BACK_OFF_CAP, _BACK_OFF_BASE * 2**failures)
                await asyncio.sleep(self._outside.draw() * pause)  # full jitter

    async def _follow(self, address: str) -> None:
        """One connection to a peer, until it is lost."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        early: list[msgspec.Raw] = []

        def heard(name: str, data: msgspec.Raw) -> None:
            if address in self._rpcs:
                self._heard(address, name, data)
            elif name == PeerNews.__name__:
                early.append(data)

        rpc = RpcClient(
            address,
            id=f"{handshake_id(self._machine.id)}.{self._outside.entropy(4).hex()}",
            secret=self._token,
            schema=SupervisorStates.schema(),
            states=(S.Start,),
            on_payload=heard,
            on_lost=lambda _: over.set_result(None),
            transport=self._outside.transport,
            entropy=self._outside.entropy,
            options=ONE_CONNECTION,
        )
        try:
            async with asyncio.timeout(self._opts.conn_timeout):
                await rpc.start()
            self._rpcs[address] = rpc
            for data in early:
                self._heard(address, PeerNews.__name__, data)
            await over
        finally:
            if self._rpcs.pop(address, None) is not None:
                self._feed(events.PeerLost(address))
            await rpc.stop()

    def _heard(self, peer: str, name: str, data: msgspec.Raw) -> None:
        if name == PeerNews.__name__:
            news = msgspec.msgpack.decode(data, type=PeerNews)
            same = (news.kind, news.schema_hash) == (self._kind, self._schema_hash)
            if not same:
                logger.warning(
                    "The peer at %s has workers of kind %r, or of another schema than ours of "
                    "kind %r; nothing is passed to it.",
                    *(peer, news.kind, self._kind),
                )
            self._feed(events.PeerSaid(peer, news.spare if same else 0))
        elif name == PeerAnswer.__name__:
            self._answered(peer, msgspec.msgpack.decode(data, type=PeerAnswer))

    def _answered(self, peer: str, answer: PeerAnswer) -> None:
        client_id = answer.super_rpc_id
        if answer.grant is not None:
            self._feed(events.PeerGranted(peer, client_id, answer.grant))
        if answer.denied is not None:
            self._feed(events.PeerDenied(peer, client_id, answer.denied.request_id))
        if answer.crashed is not None:
            self._send_client(client_id, answer.crashed)

    def do(self, action: PeerAction) -> None:
        """Tells a peer what the core says."""
        rpc = self._rpcs.get(action.peer)
        if rpc is None:
            return  # the core hears of its end, which settles everything
        source = rpc.source
        match action:
            case events.PassOn(peer, waiter, time_left):
                asked = source.add1(S.ProvideWorker, self._request(waiter, time_left))
                self._machine.spawn(None, self._asked(peer, waiter, asked))
            case events.TakeBack(_, client_id, request_id):
                args = ProvideWorkerArgs(
                    request_id=request_id, super_rpc_id=client_id, cancel=True
                )
                source.add1(S.ProvideWorker, args)
            case events.GiveBack(_, client_id, request_id, worker_id, epoch):
                issues = WorkerIssuesArgs(
                    request_id=request_id,
                    worker_id=worker_id,
                    epoch=epoch,
                    reason="its client returned it",
                    super_rpc_id=client_id,
                )
                source.add1(S.WorkerIssues, issues)
            case events.TellGone(_, client_id):
                source.add1(S.ClientDisconnected, NodeRpcArgs(super_rpc_id=client_id))

    def _request(self, waiter: Waiter, time_left: float) -> ProvideWorkerArgs:
        return ProvideWorkerArgs(
            request_id=waiter.request_id,
            kind=self._kind,
            schema_hash=self._schema_hash,
            worker_rpc_id=waiter.worker_rpc_id,
            super_rpc_id=waiter.client_id,
            time_left=time_left,
        )

    async def _asked(self, peer: str, waiter: Waiter, asked: RemoteResult) -> None:
        """A request that the peer would not even take in waits here again."""
        try:
            if await asked:
                return
        except ConnectionLost:
            return  # the core hears of that by itself
        except RpcError as error:
            logger.debug("The peer at %s takes no request: %s", peer, error)
        self._feed(events.PeerDenied(peer, *waiter.key))

    # -- the peers that ask ------------------------------------------------------------------

    def came(self, server: RpcServer) -> None:
        """Somebody connected to the local server."""
        if _is_peer(server):
            self._machine.add1(S.SuperConnected, NodeRpcArgs(id=server.client_id))

    def SuperConnectedState(self, event: Event) -> None:
        """A peer came: it is told what there is to spare."""
        self._machine.remove1(S.SuperConnected)
        self._tell(event.args.id)

    def left(self, server: RpcServer, _reason: str) -> None:
        """Somebody left the local server."""
        if _is_peer(server):
            self._machine.add1(S.SuperDisconnected, NodeRpcArgs(id=server.client_id))

    def SuperDisconnectedState(self, event: Event) -> None:
        """A peer left: what its clients asked for here, it asks for elsewhere (rule 2)."""
        self._machine.remove1(S.SuperDisconnected)
        for guest in [g for g, (peer, _) in self._guests.items() if peer == event.args.id]:
            del self._guests[guest]
            self._feed(events.ClientGone(guest))

    def tell(self, spare: int) -> None:
        """So many more requests could be served now; peers are told if that is news."""
        if spare != self._spare:
            self._spare = spare
            for server in [*self._servers()]:
                self._tell(server.client_id)

    def _tell(self, peer: str) -> None:
        news = PeerNews(kind=self._kind, schema_hash=self._schema_hash, spare=self._spare)
        self._say(peer, news)

    def answer(self, client_id: str, data: Wire) -> bool:
        """Tells a guest something, through its peer; False if that client is no guest."""
        guest = self._guests.get(client_id)
        if guest is None:
            return False
        peer, super_rpc_id = guest
        answer = PeerAnswer(
            super_rpc_id=super_rpc_id,
            grant=data if isinstance(data, Grant) else None,
            denied=data if isinstance(data, Denied) else None,
            crashed=data if isinstance(data, WorkerCrashed) else None,
        )
        self._say(peer, answer)
        return True

    def _say(self, peer: str, data: Wire) -> None:
        args = SendPayloadArgs(name=type(data).__name__, data=data, to=peer)
        self._machine.add1(S.SuperSendPayload, args)

    def SuperSendPayloadState(self, event: Event) -> None:
        """Sends a payload to one peer, if it is still there."""
        args: SendPayloadArgs = event.args
        self._machine.remove1(S.SuperSendPayload)
        for server in self._servers():
            if server.client_id == args.to and server.is_open:
                server.send_payload(args.name, args.data)

    def _servers(self) -> list[RpcServer]:
        servers = self.local.servers.values() if self.local is not None else ()
        return [server for server in servers if _is_peer(server)]

    # -- who asks ----------------------------------------------------------------------------

    def may_ask(self, event: Event) -> bool:
        """Whether a request comes from a client, or from a peer for a client that it names."""
        origin = event.mutation.origin
        if not isinstance(origin, Origin):
            return False
        return not _is_peer(origin.connection) or bool(event.args.super_rpc_id)

    def asker(self, event: Event) -> str:
        """The client that asks, as the core is to know it (rule 2)."""
        origin, args = event.mutation.origin, event.args
        assert isinstance(origin, Origin), "The guard of the state has made sure of that."
        if not _is_peer(origin.connection):
            return origin.client_id
        guest = f"{origin.client_id}|{args.super_rpc_id}"
        if isinstance(args, ProvideWorkerArgs) and not args.cancel:
            self._guests[guest] = origin.client_id, args.super_rpc_id
        return guest

    def is_guest(self, client_id: str) -> bool:
        """Whether a peer asks for this client."""
        return client_id in self._guests

    def gone(self, event: Event, super_rpc_id: str) -> str:
        """The client that is gone, as the core knows it: one of ours, or one of a peer."""
        origin = event.mutation.origin
        if not isinstance(origin, Origin):
            return super_rpc_id
        guest = f"{origin.client_id}|{super_rpc_id}"
        self._guests.pop(guest, None)
        return guest


def _is_peer(server: RpcServer) -> bool:
    return is_peer(server.client_id)
