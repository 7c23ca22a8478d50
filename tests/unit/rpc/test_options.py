from __future__ import annotations

from typing import Any

import pytest

from amnode.errors import OptionError
from amnode.rpc.options import RpcOptions


def test_defaults_are_what_the_docs_say() -> None:
    options = RpcOptions()
    assert options.handshake_frame_limit == 4096
    assert options.frame_limit == 4 * 1024 * 1024
    assert (options.connect_timeout, options.handshake_timeout) == (5.0, 5.0)
    assert (options.close_timeout, options.pending_limit) == (1.0, 64)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connect_timeout", 0),
        ("connect_timeout", float("nan")),
        ("handshake_timeout", -1),
        ("close_timeout", -0.1),
        ("pending_limit", 0),
        ("handshake_frame_limit", 4095),
        ("frame_limit", 4095),
        ("frame_limit", (1 << 31) + 1),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=name):
        RpcOptions(**{name: value})
