"""Bootstrap: where one new worker calls back to say where it listens.

One machine and one listener a worker, open from before its process starts until it has called.
The secret opens it once.
"""

from __future__ import annotations

from collections.abc import Callable

from amnode.machine.machine import Machine
from amnode.machine.transition import Event
from amnode.node.args import NodeRpcArgs
from amnode.node.outside import REAL, Outside
from amnode.node.states import BootstrapStates
from amnode.rpc.exposure import Exposure
from amnode.rpc.mux import Mux
from amnode.rpc.options import ONE_CONNECTION
from amnode.rpc.server import RpcServer

S = BootstrapStates


class Bootstrap:
    """Waits for the call of one worker.

    Args:
        name: of the worker.
        address: where to listen.
        secret: that the worker has to prove, once.
        on_call: called with the worker's id and addresses.
        outside: what it touches.
    """

    def __init__(
        self,
        name: str,
        address: str,
        secret: bytes,
        on_call: Callable[[NodeRpcArgs], None],
        *,
        outside: Outside = REAL,
    ) -> None:
        self.machine = Machine(BootstrapStates, id=f"nb-{name}")
        self.machine.bind(self)
        self._secret = secret
        self._used = False
        self._on_call = on_call
        self._mux = Mux(
            self.machine,
            address,
            name=f"nb-{name}",
            exposure=Exposure(mutable={S.WorkerAddr: NodeRpcArgs}),
            secret_of=self._secret_of,
            admit=self._admit,
            transport=outside.transport,
            entropy=outside.entropy,
            options=ONE_CONNECTION,
        )

    @property
    def address(self) -> str:
        """Where the worker calls."""
        return self._mux.address

    async def start(self) -> None:
        """Opens the listener.

        Raises:
            ConnectionLost: the address cannot be listened on.
        """
        self.machine.add1(S.Start)
        await self._mux.start()
        self.machine.add1(S.Ready)

    async def stop(self) -> None:
        """Closes it; calling it again changes nothing."""
        self.machine.remove1(S.Start)
        await self._mux.stop()
        await self.machine.dispose()

    def WorkerAddrEnter(self, event: Event) -> bool:
        """Needs an id and both addresses."""
        args = event.args
        complete = isinstance(args, NodeRpcArgs) and args.id and args.local_addr
        return bool(complete and args.public_addr)

    def WorkerAddrState(self, event: Event) -> None:
        """The worker has called; its supervisor takes it from here."""
        self._on_call(event.args)

    def _secret_of(self, _client_id: str, _role: str, /) -> bytes | None:
        return None if self._used else self._secret

    def _admit(self, _server: RpcServer) -> str | None:
        if self._used:
            return "the secret was used"
        self._used = True
        return None
