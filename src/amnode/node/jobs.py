"""`@job`: from the annotations of a method to a call that is checked before it runs.

    class Squares(Worker):
        @job
        async def square(self, n: int) -> int:
            return n * n

        @job(thread=True, idempotent=True)
        def crunch(self, data: bytes) -> bytes:
            return zlib.compress(data)

        @job
        async def frames(self, path: str) -> AsyncIterator[bytes]:
            for frame in film(path):
                yield frame

On the class, `Squares.square` is a `Job`: what `worker.call(Squares.square, 7)` takes, typed,
so that a checker knows the result. On an instance it is the method.

Arguments travel as one msgpack array, in the order of the signature, and are decoded once, by
the worker, into the annotated types; results likewise, by the caller (`values.py`). Anything
that msgspec can convert may be an annotation: numbers, text, bytes, lists, maps, dates,
structs, dataclasses; and so may NumPy arrays and `array.array`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    get_args,
    get_type_hints,
    overload,
)

import msgspec

from amnode.errors import DeliveryError, JobArgumentsError, JobFailed, OptionError
from amnode.node import progress
from amnode.node.failures import Known, known_of
from amnode.node.values import (
    DECODE_ERRORS,
    ENCODE_ERRORS,
    Codec,
    Packed,
    from_wire,
    to_wire,
)
from amnode.rpc.protocol.wire import Large

P = ParamSpec("P")
R = TypeVar("R")

_POSITION = re.compile(r"`\$\[(\d+)\]")


class Job(Generic[P, R]):
    """One job of a worker class; made by `@job`.

    Attributes:
        name: of the method; what travels.
        function: the method itself.
        idempotent: whether running it twice does no harm, so that a call may be retried.
        thread: whether it runs on the worker's thread, and not on its loop.
        streams: whether it gives items, one after the other, and no result.
        known: the exceptions of the class that declares it.
    """

    thread = False
    streams = False

    def __init__(self, function: Callable[..., Any], *, idempotent: bool = False) -> None:
        self.name = function.__name__
        self.function = function
        self.idempotent = idempotent
        self.known: Known = {}
        self.__doc__ = function.__doc__
        self._signature = _checked_signature(function)
        names = list(self._signature.parameters.items())
        self._arity = len(names)
        self._by_keyword = [n for n, p in names if p.kind is p.KEYWORD_ONLY]
        self._arguments: Codec | None = None
        self._result: Codec | None = None
        #: Nothing yet, or () where there is none.
        self._many: tuple[Codec, Codec] | tuple[()] | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.known = known_of(owner)

    def __repr__(self) -> str:
        return f"<Job {self.function.__qualname__}{self._signature}>"

    # -- the caller's side ---------------------------------------------------------------

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
        """The arguments as they travel.

        Raises:
            JobArgumentsError: too few or too many, or one that cannot be encoded.
        """
        values = args
        if kwargs or self._by_keyword or len(args) != self._arity:
            try:
                bound = self._signature.bind(*args, **kwargs)
            except TypeError as error:
                raise JobArgumentsError(f"{self.name}{self._signature}: {error}.") from None
            bound.apply_defaults()
            values = tuple(bound.arguments.values())
        codec = self._arguments or self._codec()
        try:
            return codec.encode(values)
        except ENCODE_ERRORS:
            raise self._unencodable(values) from None

    def decode_result(self, data: Packed) -> R:
        """The result, in the annotated type.

        Raises:
            JobFailed: the worker sent something else.
        """
        codec = self._result or self._result_codec()
        try:
            return codec.decode(data)
        except DECODE_ERRORS as error:
            raise JobFailed(f"The result of {self.name} does not fit: {error}.") from None

    def decode_answer(self, value: msgspec.Raw) -> R:
        """The result, from the answer that carries it; see `decode_result`."""
        try:
            data = from_wire(value)
        except DECODE_ERRORS as error:
            raise DeliveryError(f"The answer is not what was expected: {error}.") from error
        return self.decode_result(data)

    def _unencodable(self, values: tuple[Any, ...]) -> JobArgumentsError:
        types = self._types()
        for name, value, kind in zip(self._signature.parameters, values, types, strict=True):
            try:
                Codec((kind,), single=True).encode((value,))
            except ENCODE_ERRORS as error:
                return JobArgumentsError(
                    f"Argument {name} of {self.name} cannot be sent: {error}. Pass numbers, "
                    "text, bytes, lists, maps, dates, structs, dataclasses or arrays."
                )
        return JobArgumentsError(f"The arguments of {self.name} cannot be sent.")

    # -- the worker's side ---------------------------------------------------------------

    def decode(self, data: Packed) -> list[Any]:
        """The arguments, each in its annotated type.

        Raises:
            JobArgumentsError: one does not fit; the message names it.
        """
        codec = self._arguments or self._codec()
        try:
            return list(codec.decode(data))
        except DECODE_ERRORS as error:
            raise JobArgumentsError(f"{self.name}: {self._with_names(str(error))}.") from None

    def bind(self, instance: object, values: list[Any]) -> Callable[[], Any]:
        """A call of the method with the arguments that `decode` gave."""
        first = self._arity - len(self._by_keyword)
        named = dict(zip(self._by_keyword, values[first:], strict=True))
        return partial(self.function, instance, *values[:first], **named)

    def encode_result(self, value: R) -> Packed:
        """The result as it travels.

        Raises:
            JobFailed: it cannot be encoded.
        """
        codec = self._result or self._result_codec()
        try:
            return codec.encode((value,))
        except ENCODE_ERRORS as error:
            raise JobFailed(
                f"The result of {self.name} cannot be sent: {error}.",
                error_type=type(value).__name__,
            ) from None

    @property
    def many(self) -> tuple[Codec, Codec] | None:
        """For the arguments of many calls at once, and for their results.

        None where each has to be looked at by itself: for large buffers, or for keywords.
        """
        if self._many is None:
            types, result = tuple(self._types()), self._hints().get("return", Any)
            self._many = ()
            if not (self._by_keyword or Codec((*types, result)).has_places):
                calls, results = list[tuple[types or ()]], list[result]  # type: ignore[valid-type]
                self._many = Codec((calls,), single=True), Codec((results,), single=True)
        return self._many or None

    def takes(self, count: int) -> bool:
        """Whether so many positional arguments are all that it can have."""
        return count == self._arity

    def _codec(self) -> Codec:
        self._arguments = Codec(self._types())
        return self._arguments

    def _result_codec(self) -> Codec:
        self._result = Codec((self._hints().get("return", Any),), single=True)
        return self._result

    def _types(self) -> list[Any]:
        hints = self._hints()
        return [hints.get(name, Any) for name in self._signature.parameters]

    def _hints(self) -> dict[str, Any]:
        try:
            return get_type_hints(self.function, include_extras=True)
        except (NameError, TypeError, AttributeError) as error:
            raise OptionError(
                f"The annotations of {self.name} cannot be read: {error}. Their names have to "
                "be those of the module, also when the program runs."
            ) from error

    def _with_names(self, message: str) -> str:
        names = list(self._signature.parameters)
        return _POSITION.sub(lambda found: f"argument `{names[int(found[1])]}", message)


class AsyncJob(Job[P, R]):
    """A job that is an `async def` method, and runs on the worker's loop."""

    @overload
    def __get__(self, instance: None, owner: type) -> AsyncJob[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(
        self, instance: object | None, owner: type
    ) -> AsyncJob[P, R] | Callable[P, Coroutine[Any, Any, R]]:
        return self if instance is None else self.function.__get__(instance, owner)


class ThreadJob(Job[P, R]):
    """A job that is a plain method, and runs on the worker's thread."""

    thread = True

    @overload
    def __get__(self, instance: None, owner: type) -> ThreadJob[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, R]: ...
    def __get__(self, instance: object | None, owner: type) -> ThreadJob[P, R] | Callable[P, R]:
        return self if instance is None else self.function.__get__(instance, owner)


class StreamJob(Job[P, R]):
    """A job that is a generator: its caller gets what it yields, as `worker.stream(...)`.

    Args:
        function: an async generator, or a plain one for the worker's thread.
        idempotent: see `job`.
        thread: whether it runs on the worker's thread.
    """

    streams = True

    def __init__(
        self, function: Callable[..., Any], *, idempotent: bool = False, thread: bool = False
    ) -> None:
        super().__init__(function, idempotent=idempotent)
        self.thread = thread

    @overload
    def __get__(self, instance: None, owner: type) -> StreamJob[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, Any]: ...
    def __get__(
        self, instance: object | None, owner: type
    ) -> StreamJob[P, R] | Callable[P, Any]:
        return self if instance is None else self.function.__get__(instance, owner)

    def encode_item(self, item: R) -> bytes | Large:
        """An item as it travels. What may change before it has left is copied.

        Raises:
            JobFailed: it cannot be encoded.
        """
        try:
            packed = self._result_codec().encode((item,))
        except ENCODE_ERRORS as error:
            raise JobFailed(
                f"An item of {self.name} cannot be sent: {error}.",
                error_type=type(item).__name__,
            ) from None
        kept = [b if b.readonly else memoryview(bytes(b)) for b in packed.buffers]
        return to_wire(Packed(packed.data, kept))

    def decode_item(self, value: msgspec.Raw) -> R:
        """An item, in the annotated type.

        Raises:
            JobFailed: the worker sent something else.
        """
        try:
            return self._result_codec().decode(from_wire(value))
        except DECODE_ERRORS as error:
            raise JobFailed(f"An item of {self.name} does not fit: {error}.") from None

    def _result_codec(self) -> Codec:
        if self._result is None:
            given = get_args(self._hints().get("return"))
            self._result = Codec((given[0] if given else Any,), single=True)
        return self._result


class OnLoop(Protocol):
    """What `job(...)` returns, for an `async def` method."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], AsyncIterator[R]], /
    ) -> StreamJob[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> AsyncJob[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Declares it."""
        ...


class InThread(Protocol):
    """What `job(thread=True, ...)` returns, for a plain method."""

    # Whatever is no iterator is a result; there is no way to say that.
    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, function: Callable[Concatenate[Any, P], Iterator[R]], /
    ) -> StreamJob[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> ThreadJob[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Declares it."""
        ...


class Declares:
    """`job`: declares a method of a `Worker` as a job that its client can call.

    Used as `@job`, or with options as `@job(...)`. A generator gives its caller one item after
    the other (`worker.stream`), annotated as `AsyncIterator[T]` or `AsyncGenerator[T, None]`;
    with `thread=True` it is a plain one, annotated as `Iterator[T]` or the like.

    Args:
        thread: it is no `async def` method, and blocks: it runs on one thread of the worker,
            whose loop stays live.
        idempotent: running it twice does no harm, so that a call with `retry=` may do so.

    Raises:
        OptionError: it is no async function (or is one, with `thread=True`), or takes `*args`
            or `**kwargs`.
    """

    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], AsyncIterator[R]], /
    ) -> StreamJob[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> AsyncJob[P, R]: ...
    @overload
    def __call__(
        self, /, *, thread: Literal[False] = False, idempotent: bool = False
    ) -> OnLoop: ...
    @overload
    def __call__(self, /, *, thread: Literal[True], idempotent: bool = False) -> InThread: ...
    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        thread: bool = False,
        idempotent: bool = False,
    ) -> Any:
        """See the class."""
        if function is not None:
            return _declared(function, thread=thread, idempotent=idempotent)
        return partial(_declared, thread=thread, idempotent=idempotent)

    @staticmethod
    def progress(done: float, total: float | None = None, note: str = "") -> None:
        """Says how far the running job is, as often as it likes: the newest wins.

        Its caller gets it by `options(on_progress=...)` and by iterating over `submit(...)`. In
        a job on the thread it is also where a cancellation arrives, as `CancelledError`.

        Args:
            done: how much is done, in whatever unit.
            total: how much there is to do, if that is known.
            note: what it is at.

        Raises:
            JobError: the caller is no part of a running job, or passed no numbers.
        """
        progress.report(done, total, note)

    @staticmethod
    def cancelled() -> bool:
        """Whether the running job was told to stop: by its caller, a deadline, or its lease.

        A job on the thread has to ask; one on the loop is told by `CancelledError`.

        Raises:
            JobError: the caller is no part of a running job.
        """
        return progress.running("job.cancelled()").cancelled


job = Declares()


def _declared(function: Any, *, thread: bool, idempotent: bool) -> Job[..., Any]:
    name = getattr(function, "__qualname__", repr(function))
    if not inspect.isfunction(function):
        raise OptionError(f"{name} is no method; put @job on a method of a Worker.")
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if thread and is_async:
        raise OptionError(
            f"Job {name} is async, so it needs no thread: leave `thread=True` out, or make it "
            "a plain `def`."
        )
    if not thread and not is_async:
        raise OptionError(
            f"Job {name} must be an `async def` method. One that blocks is declared with "
            "@job(thread=True): it runs on a thread of its worker."
        )
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        return StreamJob(function, idempotent=idempotent, thread=thread)
    kind = cast("Any", ThreadJob if thread else AsyncJob)
    return kind(function, idempotent=idempotent)


def jobs_of(cls: type) -> dict[str, Job[Any, Any]]:
    """The jobs of a worker class, inherited ones too, by name."""
    found: dict[str, Job[Any, Any]] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Job):
                found[name] = value
            else:
                found.pop(name, None)  # redefined as something else
    return found


def _checked_signature(function: Callable[..., Any]) -> inspect.Signature:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1:]  # without self
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise OptionError(
                f"Job {function.__qualname__} takes {parameter}; name each argument, so that "
                "it can be checked."
            )
    return signature.replace(parameters=parameters)
