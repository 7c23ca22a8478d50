"""Whole deployments in simulated time: no promise is broken, and planted bugs are found.

A few seeds; `make sim` runs many.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from amnode.testing import Kind, simulate
from amnode.testing.__main__ import main
from tests.sim.planted import BUGS, Bug

#: Whether rare bugs are looked for, too. Seeds that are tried for each, at most.
LONG = bool(os.environ.get("AM_NODE_TEST_SIM_LONG"))
WITHIN = 2000 if LONG else 16
#: For how long things go wrong here, at most; `make sim` takes longer.
SECONDS = 150.0 if LONG else 30.0


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What actors log is in the trace."""
    logger = logging.getLogger("amnode")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


@pytest.mark.parametrize("seed", range(8))
def test_no_promise_is_broken(seed: int) -> None:
    verdict = simulate(seed, most=SECONDS)
    assert not verdict.broken


def test_a_supervisor_that_is_lost_in_the_turn_in_which_it_was_found_is_looked_for_again() -> (
    None
):
    kinds = (
        *(Kind.SUPERVISOR_KILL, Kind.SUPERVISOR_PAUSE, Kind.KILL, Kind.STOP, Kind.PAUSE),
        Kind.CLIENT_KILL,
    )
    assert not simulate(1195, kinds=kinds, most=60).broken


def test_without_faults_nothing_fails() -> None:
    verdict = simulate(7, kinds=(), most=SECONDS)
    assert not verdict.broken
    assert verdict.counters["calls"] > 0
    assert "fault" not in str(verdict.counters)


def test_the_same_seed_is_the_same_run_whatever_the_hash_seed() -> None:
    """Promise R4: the hashes of all that arrived, and of all that was decided, are equal."""
    probe = (
        "import logging; logging.getLogger('amnode').setLevel(1000)\n"
        "from amnode.testing import simulate\n"
        "print([simulate(seed, most=10.0).digest for seed in (2, 3)])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", probe],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert len(set(runs[0].split(", "))) == 2


@pytest.mark.parametrize(
    "bug", [bug for bug in BUGS if LONG or not bug.rare], ids=lambda bug: bug.name
)
def test_a_planted_bug_is_found(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug.plant(monkeypatch)
    for seed in range(bug.seed, bug.seed + WITHIN):
        broken = simulate(seed, kinds=bug.kinds, most=SECONDS).broken
        if broken:
            assert broken.startswith(bug.promises) or "check()" in broken
            return
    pytest.fail(f"not found within {WITHIN} seeds")


def test_the_command_says_how_to_repeat_what_it_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (bug,) = (bug for bug in BUGS if bug.name == "a death has no cause")
    bug.plant(monkeypatch)
    assert main(["--seeds", "2", "--faults", Kind.KILL, Kind.EXIT]) == 1
    said = capsys.readouterr().out
    assert "S20" in said
    assert "--trace --start" in said
    assert "1 broken promises" in said or "2 broken promises" in said

    assert main(["--trace", "--start", "0", "--faults", Kind.KILL, Kind.EXIT]) == 1
    assert "died without a cause" in capsys.readouterr().out


def test_the_command_counts_faults_and_leases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "1", "--start", "1"]) == 0
    said = capsys.readouterr().out
    assert "leases granted" in said
    assert "0 broken promises" in said
