"""`python -m tests.sim`: prints the figures; 1 if any of them shows a fault."""

from __future__ import annotations

import argparse
import sys

from tests.sim import figures


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=figures.__doc__)
    parser.add_argument("--seconds", type=float, default=40.0, help="for R1")
    parser.add_argument("--states", type=int, default=30_000, help="for R2")
    parser.add_argument("--within", type=int, default=100, help="seeds for each bug, for R3")
    parser.add_argument("--rare", action="store_true", help="rare bugs too, for R3")
    parser.add_argument("--traces", type=int, default=20, help="for R4")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    told = parser.parse_args()
    well = [
        figures.many_deployments(told.seconds, told.jobs),
        figures.every_interleaving(told.states),
        figures.planted_bugs(told.within, told.jobs, rare=told.rare),
        figures.same_traces(told.traces),
    ]
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
