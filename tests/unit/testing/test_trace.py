from __future__ import annotations

from amnode.testing.trace import Trace


def _trace(*, keep: bool = False, who: str = "w", data: bytes = b"x", at: float = 1.0) -> Trace:
    trace = Trace(keep=keep)
    trace.note(at, who, "starts")
    trace.arrived(at, "1w", data)
    return trace


def test_the_same_events_have_the_same_hash_whether_kept_or_not() -> None:
    assert _trace().digest() == _trace(keep=True).digest()
    assert _trace(keep=True).lines == ["1.000000 w: starts"]
    assert _trace().lines == []


def test_any_difference_shows() -> None:
    others = [_trace(who="v"), _trace(data=b"y"), _trace(at=2.0), Trace()]
    assert _trace().digest() not in [trace.digest() for trace in others]
