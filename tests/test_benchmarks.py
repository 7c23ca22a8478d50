"""`benchmarks/rpc.py` runs, on next to no rounds: every table is printed, and nothing is left.

That no process and no file is left is seen by the guard of every test (tests/conftest.py).
Whether a goal is met is not asked here.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "rpc.py"
TABLES = (
    "one call after the other, unix",
    "100 in flight, each, unix",
    "a push, unix",
    "20 clients of one source, unix",
    "1 MiB there and back, unix",
)


def run_benchmark(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        capture_output=True,
        text=True,
        timeout=28,
        check=False,
    )


def test_each_table_is_printed_with_its_baseline() -> None:
    ended = run_benchmark("--quick")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    for table in TABLES:
        assert re.search(rf"^{re.escape(table)}", ended.stdout, re.MULTILINE), ended.stdout
    ratios = re.findall(r"^  a bare .* (\d+\.\d\d) +1\.00 *$", ended.stdout, re.MULTILINE)
    assert ratios and set(ratios) == {"1.00"}, ended.stdout
    assert ended.stderr == ""


def test_a_table_that_does_not_exist_is_refused_by_name() -> None:
    ended = run_benchmark("cals")

    assert ended.returncode == 2
    assert "no such table: cals" in ended.stderr
