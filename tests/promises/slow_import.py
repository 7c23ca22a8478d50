"""A module that would be slow to import: whoever imports it says so in a file."""

from __future__ import annotations

import os
from pathlib import Path

from tests.promises.workers import Plain

IMPORTED = "AMNODE_TEST_IMPORTED"

if journal := os.environ.get(IMPORTED):
    with Path(journal).open("a") as file:
        file.write(f"{os.getpid()}\n")


class Heavy(Plain):
    """One of its workers."""
