"""Files for TLS that do not go together."""

from __future__ import annotations

from typing import Any

import pytest

from amnode.errors import OptionError
from amnode.rpc.tls_files import TlsFiles


@pytest.mark.parametrize("wrong", [{"mutual": True}, {"key": "k"}])
def test_files_that_do_not_go_together_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="TlsFiles"):
        TlsFiles(**wrong)
