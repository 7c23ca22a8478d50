"""What crosses between a `PoolExecutor` and its workers: pickles, by cloudpickle where needed.

Nowhere else in this package is anything pickled. A call is code by its nature, so the workers
of an executor unpickle what their program sends; and the program unpickles what its own workers
send back, as every process pool does. Nobody else can reach either (`executor_wire`, rule 4).

1. What the standard pickle can name (a function of a module, say) goes by its name; anything
   else (a lambda, a closure, what was typed in) goes by value, if cloudpickle is installed.
2. What belongs to `__main__` goes by name where the worker has that name, since it runs the
   program's script too, as multiprocessing does; else by value. Functions that go by value
   share the globals of the worker's `__main__`, so what an initializer sets there, they see;
   what the worker's script has set is not overwritten.
3. Nothing is copied that is large: bytes are passed on as they are, buffers of arrays too.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable
from functools import cache
from importlib import import_module
from multiprocessing.reduction import ForkingPickler
from types import BuiltinFunctionType, FunctionType
from typing import Any

from amnode.node.executor_wire import OWN_BUFFER, Packed

#: What a plain pickle raises at what it cannot name.
_UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)

#: Bytes past which a piece of a pickle is an object's own memory, and has no names in it.
_LONGEST_FRAME = 128 * 1024

#: What is small, and has no names in it.
_PLAIN = frozenset((type(None), bool, int, float, complex))

#: Functions whose pickle is remembered, at most.
_REMEMBERED = 256

#: Those of multiprocessing, which knows how its connections and queues are sent, and copyreg's.
_REDUCERS = ChainMap[Any, Any](
    getattr(ForkingPickler, "_extra_reducers", {}), copyreg.dispatch_table
)

_MAIN = "__main__"
_MAIN_NAME = b"__main__"

_ADVICE = (
    "It goes by value if cloudpickle is installed: pip install 'amnode[executor]'. Or define "
    "it at the top level of a module."
)


class _Sink:
    """Where a pickle is written; C code calls the list's own `append`."""

    __slots__ = ("write",)

    def __init__(self, write: Any) -> None:
        self.write: Any = write


class Pickler:
    """Pickles what one process sends.

    Attributes:
        main: the names that the other side has in its `__main__` (rule 2).
    """

    def __init__(self, main: frozenset[str] = frozenset()) -> None:
        self.main = main
        self._functions: dict[Any, bytes] = {}

    def call(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
        """A call; the function by itself where it has a name, as that is remembered.

        Raises:
            Exception: it cannot be pickled.
        """
        first = self._function(fn)
        if first is None:
            return self.dump((fn, args, kwargs))
        if kwargs or not all(type(value) in _PLAIN for value in args):
            packed = self.dump((args, kwargs))
        else:
            packed = Packed([pickle.dumps((args, kwargs), 5)], [])
        packed.pieces.insert(0, first)
        packed.first = len(first)
        return packed

    def _function(self, fn: Any) -> bytes | None:
        if not isinstance(fn, FunctionType | BuiltinFunctionType | type):
            return None
        try:
            return self._functions[fn]
        except KeyError:
            pass
        except TypeError:  # a class whose metaclass forbids hashing
            return None
        if self._is_by_value(fn) or getattr(fn, "__self__", None) is not None:
            return None
        try:
            found = pickle.dumps(fn, pickle.HIGHEST_PROTOCOL)
        except _UNPICKLABLE:
            return None
        if len(self._functions) < _REMEMBERED and len(found) < OWN_BUFFER:
            self._functions[fn] = found
        return found

    def dump(self, value: Any) -> Packed:
        """Any object.

        Raises:
            Exception: it cannot be pickled.
        """
        if type(value) in _PLAIN:
            return Packed([pickle.dumps(value, 5)], [])
        packed = Packed([], [])
        try:
            sink = _Sink(packed.pieces.append)
            pickler = pickle.Pickler(sink, 5, buffer_callback=_collect(packed.buffers))
            pickler.dispatch_table = _REDUCERS
            pickler.dump(value)
        except _UNPICKLABLE as error:
            return self._dump_by_value(value, error)
        for piece in packed.pieces:
            if len(piece) < _LONGEST_FRAME and _MAIN_NAME in piece:
                return self._dump_by_value(value, None)
        return packed

    def whole(self, value: Any) -> bytes:
        """The same in one piece.

        Raises:
            Exception: it cannot be pickled.
        """
        packed = self.dump(value)
        if packed.buffers:
            return pickle.dumps(value, 5)
        return b"".join(packed.pieces)

    def _dump_by_value(self, value: Any, error: BaseException | None) -> Packed:
        by_value = _by_value_pickler()
        packed = Packed([], [])
        if by_value is not None:
            sink = _Sink(packed.pieces.append)
            by_value(sink, _collect(packed.buffers), self.main).dump(value)
            return packed
        if error is None:  # it has names of `__main__`, which the worker may have
            data = pickle.dumps(value, 5)
            return Packed([data], [])
        error.add_note(_ADVICE)
        raise error

    def _is_by_value(self, value: Any) -> bool:
        """Whether a function or class is one that the other side cannot name (rule 2)."""
        if getattr(value, "__module__", None) != _MAIN:
            return False
        return _first_name(value) not in self.main


def _first_name(value: Any) -> str:
    """The name in its module of a function or class, or of the class that it is in."""
    return value.__qualname__.partition(".")[0]


def _collect(buffers: list[pickle.PickleBuffer]) -> Callable[[pickle.PickleBuffer], bool]:
    """Takes large buffers out of a pickle (rule 3)."""

    def collect(buffer: pickle.PickleBuffer) -> bool:
        try:
            if buffer.raw().nbytes < OWN_BUFFER:
                return True
        except BufferError:  # it is not in one piece
            return True
        buffers.append(buffer)
        return False

    return collect


class MainGlobals(dict[str, Any]):
    """Stands for the globals of `__main__` in a pickle."""

    def __reduce__(self) -> tuple[Callable[[], dict[str, Any]], tuple[()]]:
        return _main_globals, ()


def _main_globals() -> dict[str, Any]:
    """The globals of the functions of `__main__`.

    Where a script was run again, `runpy` leaves those as they were and gives the module a copy.
    """
    found = vars(sys.modules[_MAIN])
    for value in found.values():
        if isinstance(value, FunctionType) and value.__module__ == found["__name__"]:
            return value.__globals__
    return found


@cache
def _by_value_pickler() -> Any:
    """The class that pickles by value what has no name; None without cloudpickle."""
    try:
        cloudpickle: Any = import_module("cloudpickle")
    except ImportError:
        return None
    base: Any = cloudpickle.Pickler

    def begin(self: Any, sink: Any, collect: Any, main: frozenset[str]) -> None:
        base.__init__(self, sink, protocol=5, buffer_callback=collect)
        self.main = main
        self.globals_ref[id(vars(sys.modules[_MAIN]))] = MainGlobals(__name__=_MAIN)

    def reduce(self: Any, value: Any) -> Any:
        is_main = isinstance(value, FunctionType | type) and value.__module__ == _MAIN
        if is_main and _first_name(value) in self.main and _named(value) is value:
            return NotImplemented  # by its name
        reduced = base.reducer_override(self, value)
        if is_main and isinstance(value, FunctionType):
            for name in self.main:  # what the other side has there is not overwritten
                reduced[2][1]["__globals__"].pop(name, None)
        return reduced

    body = {
        "__init__": begin,
        "reducer_override": reduce,
        "dispatch_table": ChainMap(dict(base.dispatch_table), _REDUCERS),
    }
    return type("ByValue", (base,), body)


def _named(value: Any) -> Any:
    """What `__main__` has under the name of a function or class."""
    found: Any = sys.modules[_MAIN]
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found
