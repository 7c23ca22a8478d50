"""Worker classes that can be imported here and not in the process of a worker."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.promises.workers import Plain


class Unimportable(Plain):
    """Its module fails in a worker's process."""


class NeedsFile(Plain):
    """Starts when the file that the environment names is there."""

    def __init__(self) -> None:
        super().__init__()
        wanted = Path(os.environ["AM_TEST_LICENCE"])
        if not wanted.exists():
            raise RuntimeError(f"no licence at {wanted}")


_main = sys.modules["__main__"].__spec__
if (
    _main is not None
    and _main.name in ("amnode.launch.entry", "amnode.launch.forking")
    and "AM_TEST_LICENCE" not in os.environ
):
    raise RuntimeError("this machine has no such library")
