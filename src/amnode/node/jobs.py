"""`@job`: from the annotations of a method to a call that is checked before it runs.

    class Squares(Worker):
        @job
        async def square(self, n: int) -> int:
            return n * n

On the class, `Squares.square` is a `Job`: what `worker.call(Squares.square, 7)` takes, typed,
so that a checker knows the result. On an instance it is the method.

Arguments travel as one msgpack array, in the order of the signature, and are decoded once, by
the worker, into the annotated types; results likewise, by the caller. Anything that msgspec can
convert may be an annotation: numbers, text, bytes, lists, maps, dates, structs, dataclasses.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, get_type_hints, overload

import msgspec

from amnode.errors import DeliveryError, JobArgumentsError, JobFailed, OptionError

P = ParamSpec("P")
R = TypeVar("R")

_POSITION = re.compile(r"`\$\[(\d+)\]")
_encoder = msgspec.msgpack.Encoder()
_bytes = msgspec.msgpack.Decoder(bytes)


class Job(Generic[P, R]):
    """One job of a worker class; made by `@job`.

    Attributes:
        name: of the method; what travels.
        function: the method itself.
        idempotent: whether it may run twice for one call.
    """

    idempotent = False

    def __init__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> None:
        self.name = function.__name__
        self.function = function
        self.__doc__ = function.__doc__
        self._signature = _checked_signature(function)
        names = list(self._signature.parameters.items())
        self._arity = len(names)
        self._by_keyword = [n for n, p in names if p.kind is p.KEYWORD_ONLY]
        self._arguments: msgspec.msgpack.Decoder[Any] | None = None
        self._result: msgspec.msgpack.Decoder[R] | None = None

    @overload
    def __get__(self, instance: None, owner: type) -> Job[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(
        self, instance: object | None, owner: type
    ) -> Job[P, R] | Callable[P, Coroutine[Any, Any, R]]:
        if instance is None:
            return self
        return self.function.__get__(instance, owner)

    def __repr__(self) -> str:
        return f"<Job {self.function.__qualname__}{self._signature}>"

    # -- the caller's side ---------------------------------------------------------------

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
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
        try:
            return _encoder.encode(values)
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise self._unencodable(values) from None

    def decode_result(self, data: bytes) -> R:
        """The result, in the annotated type.

        Raises:
            JobFailed: the worker sent something else.
        """
        if self._result is None:
            self._result = msgspec.msgpack.Decoder(self._hints().get("return", Any))
        try:
            return self._result.decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise JobFailed(f"The result of {self.name} does not fit: {error}.") from None

    def decode_answer(self, value: msgspec.Raw) -> R:
        """The result, from the answer that carries it as bytes; see `decode_result`."""
        try:
            data = _bytes.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise DeliveryError(f"The answer is not what was expected: {error}.") from error
        return self.decode_result(data)

    def _unencodable(self, values: tuple[Any, ...]) -> JobArgumentsError:
        for name, value in zip(self._signature.parameters, values, strict=True):
            try:
                _encoder.encode(value)
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                return JobArgumentsError(
                    f"Argument {name} of {self.name} cannot be sent: {error}. Pass numbers, "
                    "text, bytes, lists, maps, dates, structs or dataclasses."
                )
        return JobArgumentsError(f"The arguments of {self.name} cannot be sent.")

    # -- the worker's side ---------------------------------------------------------------

    def decode(self, data: bytes) -> list[Any]:
        """The arguments, each in its annotated type.

        Raises:
            JobArgumentsError: one does not fit; the message names it.
        """
        if self._arguments is None:
            self._arguments = msgspec.msgpack.Decoder(self._arguments_type())
        try:
            return list(self._arguments.decode(data))
        except (msgspec.DecodeError, RecursionError) as error:
            raise JobArgumentsError(f"{self.name}: {self._with_names(str(error))}.") from None

    def bind(self, instance: object, values: list[Any]) -> Callable[[], Coroutine[Any, Any, R]]:
        """A call of the method with the arguments that `decode` gave."""
        first = self._arity - len(self._by_keyword)
        named = dict(zip(self._by_keyword, values[first:], strict=True))
        return partial(self.function, instance, *values[:first], **named)

    def encode_result(self, value: R) -> bytes:
        """The result as it travels.

        Raises:
            JobFailed: it cannot be encoded.
        """
        try:
            return _encoder.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise JobFailed(
                f"The result of {self.name} cannot be sent: {error}.",
                error_type=type(value).__name__,
            ) from None

    def _arguments_type(self) -> Any:
        hints = self._hints()
        types = tuple(hints.get(name, Any) for name in self._signature.parameters)
        return tuple[types] if types else tuple[()]

    def _hints(self) -> dict[str, Any]:
        return get_type_hints(self.function, include_extras=True)

    def _with_names(self, message: str) -> str:
        names = list(self._signature.parameters)
        return _POSITION.sub(lambda found: f"argument `{names[int(found[1])]}", message)


def job(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> Job[P, R]:
    """Declares an async method of a `Worker` as a job that its client can call.

    Raises:
        OptionError: it is no async function, or takes `*args` or `**kwargs`.
    """
    return Job(function)


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
    if not inspect.iscoroutinefunction(function):
        raise OptionError(f"Job {function.__qualname__} must be an `async def` method.")
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1:]  # without self
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise OptionError(
                f"Job {function.__qualname__} takes {parameter}; name each argument, so that "
                "it can be checked."
            )
    return signature.replace(parameters=parameters)
