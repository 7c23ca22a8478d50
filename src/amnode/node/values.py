"""Arguments, results and items as they cross: msgpack, with large buffers beside it.

What is annotated travels as msgpack and is decoded once, typed, by whoever asked for the type.
A buffer of 64 KiB or more (bytes, bytearray, memoryview, array.array, a NumPy array) is not
copied into that: an extension stands in its place, and the buffer follows as its own piece.

    data      msgpack, in which  Ext(16, n)               stands for buffer n
                                 Ext(17, [dtype, shape, order, n or bytes])   for an array
                                 Ext(18, [typecode, n or bytes])              for an array.array
                                 Ext(19, [kind, n])       for a buffer in the place of an `Any`
    buffers   [padding, buffer 0, padding, buffer 1 ...]  each buffer begins at a multiple of 16

Rules:

1. Without such a buffer nothing of this costs anything: it is one encode, and one decode.
2. What arrives as an array or a memoryview is a view of what came, and read-only.
3. An array keeps its dtype, shape and order. One whose elements are Python objects is refused.
4. NumPy is imported by whoever annotates with it, never here for those who do not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin

import msgspec

from amnode.rpc.protocol.wire import Large

#: Bytes from which a buffer is a piece of its own.
LARGE = 64 * 1024
#: A buffer begins at a multiple of so many bytes, as every element of an array has to.
_ALIGNMENT = 16
_MOST = 0xFFFF_FFFF

_BUFFER, _ARRAY, _TYPED, _ANY = 16, 17, 18, 19
_SIMPLE = {"bytes": bytes, "bytearray": bytearray, "memoryview": memoryview}

#: What `encode` and `decode` may raise; whoever calls them says whose value it was.
ENCODE_ERRORS = (TypeError, ValueError, OverflowError, RecursionError, BufferError)
DECODE_ERRORS = (msgspec.DecodeError, RecursionError, TypeError, ValueError)

_plain = msgspec.msgpack.Encoder()
_encode = _plain.encode
_decode = msgspec.msgpack.decode


class Packed(msgspec.Struct, frozen=True, array_like=True):
    """A value on its way.

    Attributes:
        data: msgpack.
        buffers: what stands beside it; the even ones are padding once they have crossed.
    """

    data: bytes | memoryview[int] = b""
    buffers: Sequence[Any] = ()


class _Arrived(msgspec.Struct, frozen=True, array_like=True):
    data: memoryview
    buffers: list[memoryview]


_arrived: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(memoryview | _Arrived)


def to_wire(packed: Packed) -> bytes | Large:
    """What to hand to a connection; `from_wire` reads it."""
    if not packed.buffers:
        return cast("bytes", packed.data)
    return beside(_encode((packed.data, ())), packed.buffers)


def from_wire(raw: msgspec.Raw) -> Packed:
    """What `to_wire` gave, without a copy.

    Raises:
        msgspec.DecodeError: it is something else.
    """
    found = _arrived.decode(raw)
    if isinstance(found, _Arrived):
        return Packed(found.data, found.buffers[1::2])
    return Packed(found)


def beside(head: bytes, buffers: Sequence[memoryview]) -> Large:
    """Puts buffers in the place of the empty array at the end of some msgpack."""
    parts: list[bytes | memoryview] = [head[:-1] + _array_of(2 * len(buffers))]
    at = len(parts[0])
    for view in buffers:
        # A header of two bytes and the padding, then one of five and the buffer.
        gap = -(at + 7) % _ALIGNMENT
        between = b"\xc4" + bytes((gap,)) + bytes(gap)
        parts += (between + b"\xc6" + view.nbytes.to_bytes(4, "big"), view)
        at += 7 + gap + view.nbytes
    return Large(*parts)


def _array_of(length: int) -> bytes:
    return b"\xdd" + length.to_bytes(4, "big")


class Codec:
    """Encodes and decodes values of some annotated types.

    Args:
        types: of each value.
        single: whether there is one value, which stands by itself.

    Attributes:
        has_places: whether a large buffer may stand in the place of a value.
    """

    def __init__(self, types: Sequence[Any], *, single: bool = False) -> None:
        self._types = tuple(types)
        self._single = single
        self._places = tuple(_place(annotation) for annotation in self._types)
        self.has_places = any(self._places)
        self._may_be_large = [n for n, place in enumerate(self._places) if place]
        self._decoder: msgspec.msgpack.Decoder[Any] | None = None

    def encode(self, values: Sequence[Any]) -> Packed:
        """The values as they cross.

        Raises:
            TypeError, ValueError, OverflowError, RecursionError, BufferError: one cannot.
        """
        if not (self._may_be_large and self._is_large(values)):
            try:  # rule 1
                return Packed(_encode(values[0] if self._single else values))
            except (TypeError, BufferError):
                pass  # something that msgspec does not know
        packing = _Packing()
        placed = [packing.put(v, p) for v, p in zip(values, self._places, strict=True)]
        encoder = msgspec.msgpack.Encoder(enc_hook=packing.hook)
        return Packed(encoder.encode(placed[0] if self._single else placed), packing.buffers)

    def decode(self, packed: Packed) -> Any:
        """The value, or the list of values, each in its annotated type.

        Raises:
            msgspec.DecodeError, RecursionError: one does not fit.
        """
        if packed.buffers:
            views = packed.buffers
            return self._made(lambda code, data: _from_ext(code, data, views), _marked).decode(
                packed.data
            )
        if self._decoder is None:
            self._decoder = self._made(lambda code, data: _from_ext(code, data, ()), None)
        return self._decoder.decode(packed.data)

    def _made(
        self, ext_hook: Callable[[int, memoryview], Any], change: Callable[[Any], Any] | None
    ) -> msgspec.msgpack.Decoder[Any]:
        types = self._types if change is None else tuple(map(change, self._types))
        whole = types[0] if self._single else tuple[types or ()]
        return msgspec.msgpack.Decoder(whole, ext_hook=ext_hook, dec_hook=_from_data)

    def _is_large(self, values: Sequence[Any]) -> bool:
        """Whether a value is to be looked at: large, or a view of who knows what."""
        for index in self._may_be_large:
            value = values[index]
            kind = type(cast("object", value))
            if kind in _SIZED and (len(value) >= LARGE or kind is memoryview):
                return True
        return False


_SIZED = (bytes, bytearray, memoryview)


# -- going out -----------------------------------------------------------------------------


class _Packing:
    """One encoding: the buffers that are taken out of it."""

    def __init__(self) -> None:
        self.buffers: list[memoryview] = []

    def put(self, value: Any, place: int) -> Any:
        """A value that may be a buffer, in a place that is annotated as one."""
        if not place or _is_array(value) or (place == _ANY and type(value) not in _SIZED):
            return value
        try:
            view = memoryview(value)
        except TypeError:
            return value
        if place == _TYPE_OF_ARRAYS:
            return value
        view = _bytes_of(view)
        if view.nbytes < LARGE:
            return view
        if place == _ANY:
            kind = type(value).__name__
            return msgspec.msgpack.Ext(_ANY, _encode((kind, self._beside(view))))
        return msgspec.msgpack.Ext(_BUFFER, _encode(self._beside(view)))

    def hook(self, value: Any) -> Any:
        """What msgspec does not know."""
        if _is_array(value):
            return self._array(value)
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic):
            return value.item()
        array = sys.modules.get("array")
        if array is not None and isinstance(value, array.array):
            return self._ext(_TYPED, [value.typecode], _bytes_of(memoryview(value)))
        raise TypeError(f"objects of type {_kind_of(value)} have no form that can be sent")

    def _array(self, value: Any) -> Any:
        import numpy as np

        if isinstance(value, np.ma.MaskedArray):
            raise TypeError("a masked array would lose its mask; send data and mask apart")
        if value.dtype.hasobject:
            raise TypeError(
                f"an array of dtype {value.dtype} holds Python objects; convert it to numbers, "
                "or send a list"
            )
        descr = np.lib.format.dtype_to_descr(value.dtype)
        if np.lib.format.descr_to_dtype(descr) != value.dtype:
            raise TypeError(f"dtype {value.dtype} is known only where it was defined")
        order = "C"
        if not value.flags.c_contiguous:
            if value.flags.f_contiguous:
                value, order = value.T, "F"
            else:
                value = np.ascontiguousarray(value)
        shape = value.shape[::-1] if order == "F" else value.shape
        flat = np.asarray(value).reshape(-1).view(np.uint8) if value.size else b""
        return self._ext(_ARRAY, [descr, shape, order], memoryview(cast("Any", flat)))

    def _ext(self, code: int, head: list[Any], view: memoryview) -> Any:
        body = self._beside(view) if view.nbytes >= LARGE else bytes(view)
        return msgspec.msgpack.Ext(code, _encode([*head, body]))

    def _beside(self, view: memoryview) -> int:
        if view.nbytes > _MOST:
            raise ValueError(f"a buffer of {view.nbytes} bytes; one may have 4 GiB")
        self.buffers.append(view)
        return len(self.buffers) - 1


def _bytes_of(view: memoryview) -> memoryview:
    if any(code in view.format for code in "OP"):
        raise TypeError("the elements of this buffer are pointers")
    if not view.nbytes:
        return memoryview(b"")
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


# -- coming in -----------------------------------------------------------------------------


def _from_ext(code: int, data: memoryview, buffers: Sequence[memoryview]) -> Any:
    """What stands in the place of an extension."""
    if code == _BUFFER:
        return _whole(_decode(data, type=int), buffers)
    if code == _ANY:
        kind, number = _decode(data, type=tuple[str, int])
        return _SIMPLE.get(kind, memoryview)(_whole(number, buffers))
    if code == _ARRAY:
        return _to_array(*_decode(data, type=tuple[Any, tuple[int, ...], str, Any]), buffers)
    if code == _TYPED:
        from array import array

        typecode, body = _decode(data, type=tuple[str, Any])
        made = cast("Any", array)(typecode)
        made.frombytes(_whole(body, buffers))
        return made
    return msgspec.msgpack.Ext(code, bytes(data))


def _whole(body: int | bytes, buffers: Sequence[memoryview]) -> Any:
    if isinstance(body, bytes):
        return body
    if not 0 <= body < len(buffers):
        raise ValueError(f"buffer {body} did not come")
    return buffers[body]


def _to_array(
    descr: Any, shape: tuple[int, ...], order: str, body: Any, buffers: Sequence[memoryview]
) -> Any:
    import numpy as np

    dtype = np.lib.format.descr_to_dtype(_tuples(descr))
    if dtype.hasobject:
        raise ValueError("an array of Python objects is not taken")
    data = _whole(body, buffers)
    flat = np.frombuffer(data, np.uint8).view(dtype) if len(data) else np.zeros(0, dtype)
    flat.flags.writeable = False  # rule 2
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _tuples(descr: Any) -> Any:
    """The fields of a structured dtype, which are tuples before they cross."""
    if isinstance(descr, str):
        return descr
    return [_field(*field) for field in descr]


def _field(name: Any, descr: Any, *shape: Any) -> tuple[Any, ...]:
    named = name if isinstance(name, str) else tuple(name)  # with a title
    return (named, _tuples(descr), *map(tuple, shape))


def _from_data(annotation: Any, value: Any) -> Any:
    """What is annotated with a type that msgspec does not know."""
    kind = get_origin(annotation) or annotation
    if isinstance(kind, _Marker):
        return kind.take(value)
    if _named(kind) == "numpy.ndarray":
        return _checked_array(annotation, value)
    return value  # msgspec compares its type


def _checked_array(annotation: Any, value: Any) -> Any:
    import numpy as np

    if not isinstance(value, np.ndarray):
        raise TypeError(f"Expected `ndarray`, got `{_kind_of(value)}`")
    array = cast("Any", value)
    for argument in get_args(annotation)[1:2]:
        for wanted in get_args(argument):
            if isinstance(wanted, type) and not issubclass(array.dtype.type, wanted):
                raise TypeError(
                    f"Expected an array of `{wanted.__name__}`, got one of `{array.dtype}`"
                )
    return array


# -- annotations ---------------------------------------------------------------------------


class _Marker(type):
    """Stands for one of the simple types where a buffer may stand beside its place."""

    simple: type

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.simple)

    def take(cls, value: Any) -> Any:
        """The buffer, as what the annotation says."""
        if type(value) in _SIZED:
            return value if type(value) is cls.simple else cls.simple(value)
        raise TypeError(f"Expected `{cls.simple.__name__}`, got `{_kind_of(value)}`")


_MARKERS: dict[Any, Any] = {
    kind: _Marker(f"_{name}", (), {"simple": kind}) for name, kind in _SIMPLE.items()
}
#: An annotation that is an array of some kind: what fits it says itself what it is.
_TYPE_OF_ARRAYS = -1


def _place(annotation: Any) -> int:
    """How a buffer may stand in the place of an annotation; 0 if it may not."""
    if annotation is Any or annotation is object:
        return _ANY
    kinds = [kind for kind in _alternatives(annotation) if kind is not type(None)]
    if len(kinds) != 1:
        return 0
    if kinds[0] in _MARKERS:
        return _BUFFER
    found = _named(get_origin(kinds[0]) or kinds[0])
    return _TYPE_OF_ARRAYS if found in ("numpy.ndarray", "array.array") else 0


def _marked(annotation: Any) -> Any:
    """The annotation, with a marker in the place of a simple type."""
    kinds = _alternatives(annotation)
    if not any(kind in _MARKERS for kind in kinds):
        return annotation
    changed = tuple(_MARKERS.get(kind, kind) for kind in kinds)
    return changed[0] if len(changed) == 1 else Union[changed]  # noqa: UP007 - made at run time


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, UnionType):
        return get_args(annotation)
    return (annotation,)


def _named(kind: Any) -> str:
    return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"


def _kind_of(value: Any) -> str:
    return type(value).__name__
