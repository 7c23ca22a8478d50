"""What travels with the states: nothing that is not declared, and no secret in a `repr`."""

from __future__ import annotations

import msgspec
import pytest

from amnode.node import args
from amnode.node.args import Wire

SECRET = b"a very secret secret"
SAMPLES: list[Wire] = [
    args.NodeRpcArgs(id="nw-1", local_addr="unix:/x"),
    args.ProvideWorkerArgs(request_id="r", kind="K", time_left=1.5),
    args.WorkerIssuesArgs(request_id="r", worker_id="w", epoch=3, again=True),
    args.Grant(request_id="r", worker_id="w", epoch=1, address="unix:/x", secret=SECRET),
    args.Denied(request_id="r", reason="no", timed_out=True),
    args.WorkerCrashed(
        worker_id="w",
        epoch=1,
        report=args.CrashReport(
            cause="signal", message="gone", signal="SIGKILL", output=("a",)
        ),
    ),
    args.ServeClientArgs(
        client_id="c", secret=SECRET, expected_tick=2, delivery_timeout=1.0, grace=0.5
    ),
    args.RetireArgs(expected_tick=2),
    args.ReleasingArgs(epoch=1, withdraw=True),
    args.WorkerInfo(worker_id="w", kind="K", schema_hash="ab", leased_tick=1, client_id="c"),
    args.WorkArgs(job="square", args=b"\x91\x07", epoch=1, deadline=2.0),
    args.WorkerBoot(
        target="m:C",
        script="",
        name="w",
        kind="K",
        boot_addr="unix:/b",
        secret=SECRET,
        local_secret=SECRET,
        directory="/d",
    ),
]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_each_crosses_the_wire_and_nothing_else_does(sample: Wire) -> None:
    data = msgspec.msgpack.encode(sample)
    assert msgspec.msgpack.decode(data, type=type(sample)) == sample
    fields = msgspec.msgpack.decode(data)
    more = [*fields, 1] if isinstance(fields, list) else fields | {"something": 1}
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(more), type=type(sample))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_no_secret_is_shown(sample: Wire) -> None:
    assert SECRET.decode() not in repr(sample)
    assert SECRET.decode() not in str(sample)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_none_of_them_can_be_changed(sample: Wire) -> None:
    with pytest.raises(AttributeError):
        setattr(sample, sample.__struct_fields__[0], "other")
