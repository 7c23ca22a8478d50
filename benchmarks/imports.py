"""What a worker's imports cost, above a Python that has imported asyncio, uvloop and msgspec.

Each sample is a process of its own, and the case and its baseline take turns, so that both see
the same machine. All read bytecode that was written before. The goal is at most 15 ms.

    python benchmarks/imports.py [samples]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from statistics import median

BASELINE = "import asyncio, msgspec, uvloop"
CASE = f"{BASELINE}; import amnode.node.worker"
GOAL = 0.015


def seconds(code: str, env: Mapping[str, str]) -> float:
    """Seconds from the start of a Python that runs `code` to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
    return time.perf_counter() - started


def main(samples: int = 15) -> None:
    """Prints both medians, their ratio and what was added."""
    with tempfile.TemporaryDirectory(prefix="am-") as bytecode:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        seconds(CASE, env)
        pairs = [(seconds(BASELINE, env), seconds(CASE, env)) for _ in range(samples)]
    baseline, case = (median(column) for column in zip(*pairs, strict=True))
    added = median(after - before for before, after in pairs)
    print(f"imports of a worker, median of {samples} processes")
    print(f"  asyncio, uvloop, msgspec   {baseline * 1e3:7.1f} ms")
    print(f"  and amnode.node.worker     {case * 1e3:7.1f} ms   ratio {case / baseline:.2f}")
    print(f"  added                      {added * 1e3:7.1f} ms   goal {GOAL * 1e3:.0f} ms")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
