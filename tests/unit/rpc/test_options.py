from __future__ import annotations

from typing import Any

import pytest

from amnode.errors import OptionError
from amnode.rpc.options import ONE_CONNECTION, RpcOptions


def test_defaults_are_what_the_docs_say() -> None:
    options = RpcOptions()
    assert options.handshake_frame_limit == 4096
    assert options.frame_limit == 4 * 1024 * 1024
    assert (options.connect_timeout, options.handshake_timeout) == (5.0, 5.0)
    assert (options.close_timeout, options.pending_limit) == (1.0, 64)
    assert (options.keepalive, options.session_ttl, options.stall_timeout) == (10, 30, 30)
    assert (options.answers_kept, options.answers_kept_bytes) == (1024, 64 << 20)
    assert (options.chunk_size, options.credit, options.body_limit) == (
        512 << 10,
        4 << 20,
        1 << 30,
    )
    assert (options.call_limit, options.stream_credit) == (4096, 256 << 10)
    assert (options.payload_limit, options.outgoing_limit) == (64 << 20, 16 << 20)
    assert (options.reconnect_tries, options.reconnect_timeout) == (20, 30)
    assert (options.reconnect_base, options.reconnect_cap) == (0.05, 5)
    assert (ONE_CONNECTION.session_ttl, ONE_CONNECTION.reconnect_tries) == (0, 0)
    assert (options.ack_delay, ONE_CONNECTION.ack_delay) == (0, 0.05)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connect_timeout", 0),
        ("connect_timeout", float("nan")),
        ("handshake_timeout", -1),
        ("stall_timeout", 0),
        ("reconnect_base", 0),
        ("close_timeout", -0.1),
        ("pending_limit", 0),
        ("handshake_frame_limit", 4095),
        ("frame_limit", 4095),
        ("frame_limit", (1 << 31) + 1),
        ("keepalive", -1),
        ("keepalive", 0.049),
        ("keepalive", float("nan")),
        ("session_ttl", -1),
        ("answers_kept", 0),
        ("answers_kept_bytes", -1),
        ("call_limit", 0),
        ("chunk_size", 1023),
        ("credit", 1023),
        ("body_limit", 1023),
        ("stream_credit", 0),
        ("ack_delay", -0.1),
        ("payload_limit", 0),
        ("outgoing_limit", 0),
        ("reconnect_tries", -1),
        ("reconnect_timeout", -1),
        ("reconnect_cap", 0.049),
        ("reconnect_cap", float("nan")),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=name):
        RpcOptions(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keepalive", 0),
        ("keepalive", 0.05),
        ("session_ttl", 0),
        ("answers_kept_bytes", 0),
        ("reconnect_tries", 0),
        ("frame_limit", 1 << 31),
    ],
)
def test_the_least_and_the_largest_values_are_allowed(name: str, value: Any) -> None:
    assert getattr(RpcOptions(**{name: value}), name) == value


def test_a_chunk_takes_at_most_half_a_frame() -> None:
    assert RpcOptions(chunk_size=1024).chunk == 1024
    assert RpcOptions(frame_limit=10_000).chunk == 5000
