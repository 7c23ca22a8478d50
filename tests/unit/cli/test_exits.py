"""Which error ends a command with which code."""

from __future__ import annotations

import pytest

from amnode import errors
from amnode.cli.exits import Exit, exit_of

CODES = {
    errors.OptionError("x"): 2,
    errors.ConnectionLost("x"): 3,
    errors.AuthError("x"): 4,
    errors.RefusedError("x"): 4,
    errors.RpcTimeoutError("x"): 5,
    errors.LeaseTimeoutError("x"): 5,
    errors.JobTimeoutError("x"): 5,
    errors.WaitTimeoutError("x"): 5,
    errors.WorkerMissingError("x"): 1,
    errors.JobFailed("x"): 1,
    errors.PoolError("x"): 1,
    KeyboardInterrupt(): 130,
    BrokenPipeError(): 141,
    PermissionError(): 1,
}


@pytest.mark.parametrize("error", CODES, ids=lambda error: type(error).__name__)
def test_an_error_has_its_code(error: BaseException) -> None:
    assert exit_of(error) == CODES[error]


def test_each_code_is_told_apart() -> None:
    assert sorted({int(code) for code in Exit}) == [0, 1, 2, 3, 4, 5, 130, 141]
