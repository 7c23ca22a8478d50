"""Several waits as one, with a timeout that says what never came true.

    await wait_all(machine.when1("Ready"), other.when_not1("Busy"), timeout=5)

Whatever ends it (all true, one true, the timeout, an error of one wait, a cancellation of the
caller), the waits that are still pending are cancelled, and nothing of them is left.
"""

from __future__ import annotations

import asyncio
from typing import Any

from amnode.errors import OptionError, WaitTimeoutError
from amnode.machine.waits import Pending


async def wait_all(*waits: Pending[Any], timeout: float | None = None) -> None:
    """Waits until all of these came true, each at its own time.

    Args:
        waits: what the `when` methods return, of one machine or several.
        timeout: seconds; None, the default, waits without end.

    Raises:
        WaitTimeoutError: the time is up; it says which conditions never came true.
        ContextExpiredError: the context of one of them ended first.
        MachineDisposedError: the machine of one of them was disposed first.
    """
    await _wait(waits, timeout, asyncio.FIRST_EXCEPTION)


async def wait_any(*waits: Pending[Any], timeout: float | None = None) -> int:
    """Waits until one of these came true.

    Args:
        waits: what the `when` methods return, of one machine or several; at least one.
        timeout: seconds; None, the default, waits without end.

    Returns:
        The position of the first that is true among those given.

    Raises:
        OptionError: nothing is waited for.
        WaitTimeoutError: the time is up; it says which conditions never came true.
        ContextExpiredError: the context of one of them ended first.
        MachineDisposedError: the machine of one of them was disposed first.
    """
    if not waits:
        raise OptionError("wait_any needs at least one wait; none would never come true.")
    await _wait(waits, timeout, asyncio.FIRST_COMPLETED)
    return next(k for k, wait in enumerate(waits) if _is_true(wait))


async def _wait(waits: tuple[Pending[Any], ...], timeout: float | None, until: str) -> None:
    if not waits:
        return
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=until)
        open_ = [wait for wait in waits if not wait.done()]
        if until == asyncio.FIRST_COMPLETED and any(map(_is_true, waits)):
            return
        for wait in waits:
            if wait.done():
                wait.result()  # raises what ended it
        if open_:
            missing = "; ".join(wait.describe() for wait in open_)
            raise WaitTimeoutError(f"After {timeout} s this has not come true: {missing}.")
    finally:
        for wait in waits:
            wait.cancel()


def _is_true(wait: Pending[Any]) -> bool:
    return wait.done() and not wait.cancelled() and wait.exception() is None
