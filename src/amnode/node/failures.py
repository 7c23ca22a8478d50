"""What a job raised, from the worker to its caller: data, never code.

It crosses as a `JobFailed`: the name of its class, its message, its remote traceback, and its
arguments where they can be sent. At the caller it is raised as what it was, if its class is
known there; the `JobFailed` is then its cause, so that all failures of jobs can be told from
others at once.

Rules:

1. Known are the classes in `exceptions` of the worker class, and the exceptions of Python in
   `BUILTIN`. A name that came over the wire is looked up there, and imported nowhere.
2. Only the class itself counts, none of its bases: what is raised is what was raised.
3. An error of this package that a job raises is the job's: it never passes for ours.
4. No `__init__` of an exception runs for what came over the wire.
"""

from __future__ import annotations

import builtins
import traceback
from base64 import b85decode, b85encode
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from amnode.errors import AmnodeError, JobFailed, OptionError

#: Characters of a message or a traceback that cross.
_TEXT_LIMIT: Final = 64 * 1024
#: Bytes of arguments that cross.
_ARGUMENTS_LIMIT: Final = 64 * 1024

#: What would mean something else to the loop, or the coroutine, in which it is raised.
_NOT_FOR_OTHERS = (StopIteration, StopAsyncIteration)

#: The exceptions of Python itself that are raised at the caller as what they were.
BUILTIN: Final[Mapping[str, type[Exception]]] = {
    name: found
    for name, found in sorted(vars(builtins).items())
    if isinstance(found, type)
    and issubclass(found, Exception)
    and found.__name__ == name
    and not issubclass(found, Warning)
    and found not in _NOT_FOR_OTHERS
}

#: Those that a worker class has of its own, by name.
Known: TypeAlias = Mapping[str, type[Exception]]


class _Raised(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What is needed to raise it again."""

    name: str
    own: bool
    args: list[Any]
    state: dict[str, Any]


def checked(cls_name: str, classes: Iterable[Any]) -> dict[str, type[Exception]]:
    """The exceptions of a worker class, by name.

    Raises:
        OptionError: one is no exception class, is of this package, or has the name of another.
    """
    found: dict[str, type[Exception]] = {}
    if isinstance(classes, type):
        raise OptionError(f"{cls_name}.exceptions must be a tuple: ({classes.__name__},).")
    for kind in classes:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise OptionError(
                f"{cls_name}.exceptions has {kind!r}; it must have subclasses of Exception."
            )
        if issubclass(kind, AmnodeError):
            raise OptionError(
                f"{cls_name}.exceptions has {kind.__name__}, an error of amnode: one that a "
                "job raises must not pass for ours. Derive yours from Exception."
            )
        if issubclass(kind, _NOT_FOR_OTHERS):
            raise OptionError(
                f"{cls_name}.exceptions has {kind.__name__}, which means something else where "
                "it is raised: the end of an iteration."
            )
        if found.setdefault(kind.__qualname__, kind) is not kind:
            raise OptionError(
                f"{cls_name}.exceptions has two classes named {kind.__qualname__}; rename one."
            )
    return found


def known_of(cls: type) -> Known:
    """The exceptions of a worker class and its bases, by name."""
    found: dict[str, type[Exception]] = {}
    for base in reversed(cls.__mro__):
        own = vars(base).get("exceptions", ())
        found |= {kind.__qualname__: kind for kind in own}
    return found


# -- at the worker -------------------------------------------------------------------------


def failed(job: str, error: BaseException, known: Known) -> JobFailed:
    """What a job raised, as data that crosses whatever it is."""
    kind = type(error).__name__
    try:
        said = str(error)
        trace = "".join(traceback.format_exception(error))
    except Exception as broken:  # an exception that cannot even be shown
        said = trace = f"(its text could not be made: {type(broken).__name__})"
    said = sendable(said)
    return JobFailed(
        f"Job {job} raised {kind}: {said}",
        error_type=sendable(kind),
        traceback=sendable(trace),
        raised=_raised(error, said, known),
    )


def _raised(error: BaseException, said: str, known: Known) -> str:
    """What its caller needs to raise it again; "" if it will not."""
    kind = type(error)
    own = known.get(kind.__qualname__) is kind
    if not own and BUILTIN.get(kind.__name__) is not kind:
        return ""
    try:
        args, state = _parts(error)
        data = msgspec.msgpack.encode(_Raised(kind.__qualname__, own, args, state))
    except Exception:  # whatever its arguments are, the failure has to be told
        data = b""
    if not data or len(data) > _ARGUMENTS_LIMIT:
        data = msgspec.msgpack.encode(_Raised(kind.__qualname__, own, [said], {}))
    return b85encode(data).decode() if len(data) <= 2 * _ARGUMENTS_LIMIT else ""


def _parts(error: BaseException) -> tuple[list[Any], dict[str, Any]]:
    """Its arguments, and what of its attributes can be sent."""
    args = [*error.args]
    if isinstance(error, OSError) and error.filename is not None:
        args = [*args[:2], error.filename]  # which its `args` leave out
    state: dict[str, Any] = {}
    for name, value in vars(error).items():
        if name == "__notes__":
            continue  # they are in its traceback
        if _can_be_sent(value):
            state[name] = value
    if isinstance(error, ImportError | NameError | AttributeError):
        for name in ("name", "path"):  # which are not among its `args`
            value = getattr(error, name, None)
            if isinstance(value, str):
                state[name] = value
    return args, state


def _can_be_sent(value: Any) -> bool:
    try:
        msgspec.msgpack.encode(value)
    except Exception:  # of whatever it is made
        return False
    return True


def sendable(text: str) -> str:
    """The text without what UTF-8 cannot say, and not longer than a frame can take."""
    if len(text) > _TEXT_LIMIT:
        half = _TEXT_LIMIT // 2
        text = f"{text[:half]}\n... cut ...\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()


# -- at the caller -------------------------------------------------------------------------


def as_raised(failure: JobFailed, known: Known) -> Exception:
    """What to raise for a failure: what the job raised, if it is known, or the failure.

    The first has the remote traceback as a note, and the failure as its cause.
    """
    if not failure.raised:
        return failure
    try:
        raised = msgspec.msgpack.decode(b85decode(failure.raised), type=_Raised)
        kind = (known if raised.own else BUILTIN).get(raised.name)
        if kind is None:
            return failure
        error = _made(kind, raised)
    except Exception:  # of other arguments than its class takes; the failure says it all
        return failure
    if failure.traceback:
        error.add_note(f"The traceback on the worker:\n{failure.traceback.rstrip()}")
    failure.__notes__ = []  # or it would be shown twice
    error.__cause__ = failure
    return error


def _made(kind: type[Exception], raised: _Raised) -> Exception:
    if not raised.own:
        error = kind(*raised.args)
    else:
        error = kind.__new__(kind, *raised.args)  # rule 4
        error.args = tuple(raised.args)
    for name, value in raised.state.items():
        setattr(error, name, value)
    return error


def failure_of(error: BaseException) -> JobFailed | None:
    """The failure of a job that an exception stands for; None if it does not.

    try:
        await worker.call(Squares.square, 7)
    except Exception as error:
        if failure := amnode.failure_of(error):
            ...  # the job raised, whatever it was; `failure.error_type` names it

    """
    if isinstance(error, JobFailed):
        return error
    return error.__cause__ if isinstance(error.__cause__, JobFailed) else None
