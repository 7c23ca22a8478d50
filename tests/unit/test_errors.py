"""The exception tree: what each error carries, and how it crosses a connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode import errors
from amnode.errors import (
    AmnodeError,
    Cause,
    ConnectionLost,
    ErrorData,
    JobFailed,
    LeaseLost,
    Outcome,
    RpcError,
    StateUnknownError,
    WorkerError,
    WorkerKillError,
    from_data,
)

TREE = errors._BY_NAME


def test_the_tree_is_the_drawn_one() -> None:
    drawn = [
        line.split("──")[1].split()[0]
        for line in str(errors.__doc__).splitlines()
        if "──" in line
    ]
    assert sorted(drawn) == sorted(set(TREE) - {"AmnodeError"})
    for found in TREE.values():
        assert issubclass(found, AmnodeError)
        assert found.__doc__


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("OptionError", ValueError),
        ("SchemaError", ValueError),
        ("StateUnknownError", KeyError),
        ("BindingError", TypeError),
        ("RpcTimeoutError", TimeoutError),
        ("ConnectionLost", ConnectionError),
        ("LeaseTimeoutError", TimeoutError),
        ("JobTimeoutError", TimeoutError),
        ("JobArgumentsError", TypeError),
    ],
)
def test_errors_are_also_what_python_calls_them(name: str, builtin: type) -> None:
    assert issubclass(TREE[name], builtin)


def test_a_key_error_shows_its_message_as_it_is() -> None:
    assert str(StateUnknownError("There is no state 'X'.")) == "There is no state 'X'."


def test_a_worker_error_says_cause_and_outcome() -> None:
    error = WorkerKillError(
        "gone",
        cause=Cause.SIGNAL,
        outcome=Outcome.NOT_RUN,
        worker_id="w1",
        exit_code=None,
        signal="SIGKILL",
        output=("a", "b"),
    )
    assert error.to_data() == ErrorData(
        "WorkerKillError",
        "gone",
        {"cause": "signal", "outcome": "not run", "worker_id": "w1", "signal": "SIGKILL"},
    )
    again = from_data(error.to_data())
    assert type(again) is WorkerKillError
    assert (again.cause, again.outcome, again.signal) == (
        Cause.SIGNAL,
        Outcome.NOT_RUN,
        "SIGKILL",
    )


def test_what_is_not_known_is_said() -> None:
    error = WorkerError("x")
    assert (error.cause, error.outcome) == (Cause.LOST, Outcome.UNKNOWN)
    assert (error.exit_code, error.signal, error.output) == (None, "", ())
    assert LeaseLost("x").outcome is ConnectionLost("x").outcome is Outcome.UNKNOWN


def test_a_remote_traceback_is_a_note() -> None:
    error = JobFailed("boom", error_type="ValueError", traceback="line 1\nline 2\n")
    assert error.__notes__ == ["The traceback on the worker:\nline 1\nline 2"]
    assert not hasattr(JobFailed("boom"), "__notes__")
    again = from_data(error.to_data())
    assert isinstance(again, JobFailed)
    assert (again.error_type, again.traceback) == ("ValueError", "line 1\nline 2\n")


def test_an_unknown_class_arrives_as_an_rpc_error() -> None:
    found = from_data(ErrorData("OSError", "no such file", {}))
    assert type(found) is RpcError
    assert str(found) == "OSError: no such file"


def test_fields_that_this_version_does_not_know_are_dropped() -> None:
    found = from_data(ErrorData("LeaseLost", "x", {"outcome": "not run", "color": "red"}))
    assert isinstance(found, LeaseLost)
    assert found.outcome is Outcome.NOT_RUN
    found = from_data(ErrorData("LeaseLost", "x", {"outcome": "perhaps"}))
    assert isinstance(found, LeaseLost)
    assert found.outcome is Outcome.UNKNOWN


@given(st.sampled_from(sorted(TREE)), st.text(), st.dictionaries(st.text(), st.text()))
def test_any_data_is_some_error(name: str, message: str, detail: dict[str, str]) -> None:
    found = from_data(ErrorData(name, message, detail))
    assert type(found) is TREE[name]
    assert str(found) == message
    assert type(from_data(found.to_data())) is type(found)
