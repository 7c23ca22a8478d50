from __future__ import annotations

import pytest

from amnode.errors import OptionError
from amnode.rpc.protocol.handshake import check_identity


def test_ids_are_checked_where_they_are_given() -> None:
    assert check_identity("rc-door ünï") == "rc-door ünï"
    for wrong in ("", "a\nb", "x" * 201):
        with pytest.raises(OptionError):
            check_identity(wrong)
