"""`python -m tests.chaos [--figure R6] [--count N] [--seed S]`: 1 if a promise was broken."""

from __future__ import annotations

import argparse
import logging
import random
import sys

from tests.chaos.run import FIGURES, run


def main() -> int:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", choices=FIGURES, help="only this one")
    parser.add_argument("--count", type=int, help="how often; each has its own default")
    parser.add_argument("--seed", type=int, help="to do again what was printed")
    told = parser.parse_args()
    logging.getLogger("amnode").setLevel(logging.CRITICAL)  # every end here is meant
    seed = random.randrange(2**32) if told.seed is None else told.seed
    names = [told.figure] if told.figure else list(FIGURES)
    broken = [name for name in names if run(name, told.count, seed).violations]
    print(f"broken: {', '.join(broken)} (seed {seed})" if broken else "no violations")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
