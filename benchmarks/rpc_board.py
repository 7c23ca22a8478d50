"""What is served and followed in the benchmark of remote machines, and the bytes of it."""

from __future__ import annotations

import msgspec

from amnode.machine.schema import Schema, State
from amnode.machine.transition import Event
from amnode.rpc.exposure import Exposure
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.wire import NIL, Answer, Difference, Mutate, Outcome, Update
from amnode.rpc.server import Origin

SECRET = b"a secret that both sides of a benchmark know"
MIB = 1 << 20
#: Of the large echo, unless it is asked for another size.
LARGE = 32 * MIB

#: Twenty states, as many as a worker has; the others do not move.
BOARD = Schema(
    {
        "On": State(),
        "Pushed": State(),
        "Echo": State(multi=True),
        **{f"Idle{i}": State() for i in range(16)},
    }
)


class Data(msgspec.Struct, forbid_unknown_fields=True):
    """What comes with an echo."""

    data: bytes


EXPOSURE = Exposure(mutable={"On": None, "Echo": Data}, removable={"On": None})


class Handlers:
    """Of the board."""

    def EchoState(self, event: Event) -> None:
        """Answers with what came."""
        origin, args = event.mutation.origin, event.args
        assert isinstance(origin, Origin) and isinstance(args, Data)
        origin.defer().answer(args.data)


def options(frame_limit: int) -> RpcOptions:
    """Those of both ends."""
    return RpcOptions(frame_limit=frame_limit)


_MOVED = Difference([0, 1], 1, 1 << 31)

#: What a mutation sends, what its answer is, and what a push is: so many bytes are echoed.
ASKED = wire.to_frame(Mutate(seq=1000, type=0, states=[0], args=NIL))
ANSWERED = wire.to_frame(Answer(1000, Outcome.EXECUTED, _MOVED, NIL))
PUSHED = wire.to_frame(Update(_MOVED))
