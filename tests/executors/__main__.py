"""Software that takes an executor, with `PoolExecutor` as the one: `python -m tests.executors`.

`make executors` installs it, into an environment of its own, and runs this. Each piece is used
as its own documentation says, and its results are compared with what they have to be.
"""

from __future__ import annotations

import sys
import time
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import version

from amnode import PoolExecutor
from tests.executors import pieces
from tests.executors.joblib_backend import register

#: Distribution, and what is done with it.
PIECES: dict[str, Callable[[PoolExecutor], None]] = {
    "joblib": pieces.use_joblib,
    "scikit-learn": pieces.use_scikit_learn,
    "dask": pieces.use_dask,
    "distributed": pieces.use_distributed,
    "xarray": pieces.use_xarray,
    "scipy": pieces.use_scipy,
    "emcee": pieces.use_emcee,
    "adaptive": pieces.use_adaptive,
    "nevergrad": pieces.use_nevergrad,
    "more-executors": pieces.use_more_executors,
}


def main(names: list[str]) -> int:
    warnings.simplefilter("ignore")  # theirs
    failed = 0
    for name in names or PIECES:
        began = time.monotonic()
        try:
            with PoolExecutor(2) as executor:
                register(executor)
                PIECES[name](executor)
            ended = "works"
        except Exception:
            traceback.print_exc()
            ended, failed = "FAILS", failed + 1
        print(
            f"{name:16}{version(name):12}{ended}  {time.monotonic() - began:5.1f} s", flush=True
        )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
