"""What a job raised, as data: raised again as what it was where that is known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode import AmnodeError, JobFailed, OptionError, failure_of
from amnode.errors import from_data
from amnode.node import failures


class OwnError(Exception):
    """Takes other arguments than its `args`."""

    ran = 0

    def __init__(self, size: int, limit: int = 5) -> None:
        type(self).ran += 1
        super().__init__(f"{size} > {limit}")
        self.size = size
        self.thing = object()


class Child(OwnError):
    """A subclass that nobody listed."""


class FileTrouble(OSError):
    """A subclass of one that keeps its arguments elsewhere."""


KNOWN = {"OwnError": OwnError, "FileTrouble": FileTrouble}


def crossed(error: BaseException, known: failures.Known = KNOWN) -> Exception:
    """What is raised at the caller."""
    failure = failures.failed("work", error, known)
    arrived = from_data(failure.to_data())
    assert isinstance(arrived, JobFailed)
    return failures.as_raised(arrived, known)


@pytest.mark.parametrize("name", failures.BUILTIN)
def test_each_of_pythons_own_is_what_it_was(name: str) -> None:
    kind = failures.BUILTIN[name]
    made: dict[str, Any] = {
        "UnicodeDecodeError": ("utf-8", b"\xff", 0, 1, "bad"),
        "UnicodeEncodeError": ("ascii", "é", 0, 1, "bad"),
        "UnicodeTranslateError": ("é", 0, 1, "bad"),
    }
    if issubclass(kind, BaseExceptionGroup):
        assert isinstance(crossed(kind("both", [ValueError()])), JobFailed)
        return
    args = ("said",) if issubclass(kind, SyntaxError) else made.get(name, ("said", 7))
    error = kind(*args)
    found = crossed(error)
    assert type(found) is type(error)
    assert found.args == error.args
    assert str(found) == str(error)
    failure = failure_of(found)
    assert failure is not None and failure.error_type == type(error).__name__
    assert failure_of(ValueError("of the caller")) is None


def test_what_is_beside_the_arguments_comes_too() -> None:
    found = crossed(FileNotFoundError(2, "No such file", "/nowhere"))
    assert isinstance(found, FileNotFoundError)
    assert (found.errno, found.filename) == (2, "/nowhere")
    missing = crossed(ModuleNotFoundError("no", name="a.b", path="/a"))
    assert isinstance(missing, ModuleNotFoundError)
    assert (missing.name, missing.path) == ("a.b", "/a")
    wrong = crossed(AttributeError("no", name="x", obj=object()))
    assert isinstance(wrong, AttributeError)
    assert wrong.name == "x"


def test_own_ones_come_without_running_their_init() -> None:
    error = OwnError(7)
    before = OwnError.ran
    found = crossed(error)
    assert type(found) is OwnError
    assert OwnError.ran == before
    assert (str(found), found.size) == ("7 > 5", 7)
    assert not hasattr(found, "thing")
    trouble = crossed(FileTrouble(2, "No such file", "/x"))
    assert isinstance(trouble, FileTrouble)
    assert (trouble.errno, trouble.filename) == (2, "/x")


@pytest.mark.parametrize(
    "error",
    [
        Child(1),
        StopIteration(1),
        StopAsyncIteration(),
        GeneratorExit(),
        AmnodeError("ours"),
        JobFailed("ours"),
        type("ValueError", (Exception,), {})(),
        DeprecationWarning("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_others_are_failures(error: BaseException) -> None:
    found = crossed(error)
    assert isinstance(found, JobFailed)
    assert found.error_type == type(error).__name__
    assert failure_of(found) is found


def test_who_does_not_know_an_own_one_gets_the_failure() -> None:
    failure = failures.failed("work", OwnError(7), KNOWN)
    assert failures.as_raised(failure, {}) is failure


def test_arguments_that_cannot_be_sent_are_replaced_by_the_text() -> None:
    found = crossed(ValueError(object()))
    assert type(found) is ValueError
    assert "object object" in found.args[0]
    large = crossed(ValueError("x" * 500_000))
    assert type(large) is ValueError
    assert len(str(large)) < 70_000
    # A class that does not take one text falls back to the failure.
    odd = UnicodeDecodeError("utf-8", b"x" * 200_000, 0, 1, "bad")
    assert isinstance(crossed(odd), JobFailed)


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_one_that_cannot_be_shown() -> None:
    found = crossed(MuteError())
    assert isinstance(found, JobFailed)
    assert "could not be made: RuntimeError" in str(found)


def test_the_traceback_is_a_note_once() -> None:
    try:
        raise ValueError("mine")
    except ValueError as error:
        error.add_note("of the job")
        found = crossed(error)
    (note,) = found.__notes__
    assert note.startswith("The traceback on the worker:")
    assert 'raise ValueError("mine")' in note
    assert "of the job" in note
    failure = failure_of(found)
    assert failure is not None and failure.__notes__ == []


@given(st.text(max_size=60))
def test_what_else_came_is_a_failure(raised: str) -> None:
    failure = JobFailed("Job work raised", error_type="ValueError", raised=raised)
    assert failures.as_raised(failure, KNOWN) is failure


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (ValueError, "must be a tuple"),
        ((KeyboardInterrupt,), "subclasses of Exception"),
        ((StopIteration,), "means something else"),
        ((7,), "subclasses of Exception"),
        ((JobFailed,), "an error of amnode"),
        ((OwnError, type("OwnError", (Exception,), {})), "two classes named OwnError"),
    ],
)
def test_a_registry_is_checked(classes: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        failures.checked("Here", classes)


def test_a_registry_has_what_the_bases_list() -> None:
    class Base:
        exceptions = (OwnError,)

    class Derived(Base):
        exceptions = (FileTrouble, OwnError)

    assert failures.checked("Derived", Derived.exceptions) == failures.known_of(Derived)
    assert failures.known_of(Base) == {"OwnError": OwnError}
