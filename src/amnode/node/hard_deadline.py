"""Ends this process at a time, whatever its loop and its threads are doing then.

Rules:

1. A thread that does nothing but wait ends the process, with an exit code that says why, and
   with all that the process started. It takes no lock that the program may hold.
2. Where code that lets no other thread run keeps even that one from it, a timer in C ends the
   process a moment later: it needs no interpreter. It cannot end what the process started; the
   supervisor does.
3. Both write down where each thread was.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from contextlib import suppress

from amnode.launch.reaper import end_descendants
from amnode.node.names import EXIT_HARD_DEADLINE

#: Seconds that the thread has before the timer does it.
_MARGIN = 0.5

_OUTPUT = 2


class HardDeadline:
    """The one time at which this process has to end, if there is one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._at: float | None = None
        self._words = ""
        self._thread: threading.Thread | None = None

    def set(self, seconds: float, words: str) -> None:
        """The process ends in so many seconds, unless `clear` comes first."""
        with self._changed:
            self._at = time.monotonic() + seconds
            self._words = words
            self._changed.notify()
        faulthandler.dump_traceback_later(seconds + _MARGIN, exit=True, file=_OUTPUT)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._watch, name="amnode-hard-deadline", daemon=True
            )
            self._thread.start()

    def clear(self) -> None:
        """It does not have to end any more."""
        with self._changed:
            self._at = None
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        with self._changed:
            while True:
                left = None if self._at is None else self._at - time.monotonic()
                if left is not None and left <= 0:
                    self._end()
                self._changed.wait(left)

    def _end(self) -> None:
        try:
            with suppress(OSError, ValueError):  # a job may have closed its output
                faulthandler.dump_traceback(file=_OUTPUT)
                os.write(_OUTPUT, f"{self._words}\n".encode("utf-8", "backslashreplace"))
            with suppress(OSError):
                end_descendants(os.getpid())
        finally:
            os._exit(EXIT_HARD_DEADLINE)


#: Of this process.
HARD_DEADLINE = HardDeadline()
