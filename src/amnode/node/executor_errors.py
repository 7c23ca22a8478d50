"""What a call of a `PoolExecutor` fails with when it is not its own exception.

They are errors of this package and those of the standard executor at once, so that code which
catches either goes on to work.
"""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool

from amnode.errors import PoolError, WorkerError


class CallLostError(WorkerError, BrokenProcessPool):
    """The worker that ran a call died, or was killed for it.

    Only the call that ran on it fails; the executor goes on with another worker.
    """


class ExecutorBrokenError(PoolError, BrokenProcessPool):
    """No worker can be had: they do not start, or their initializer fails."""


class RemoteTraceback(Exception):
    """The cause of an exception that a call raised: its traceback on the worker.

    Attributes:
        tb: the traceback, as text.
    """

    def __init__(self, tb: str) -> None:
        super().__init__(tb)
        self.tb = tb

    def __str__(self) -> str:
        return f'\n"""\n{self.tb.rstrip()}\n"""'
