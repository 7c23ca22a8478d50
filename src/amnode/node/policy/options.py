"""Every option of the pool: name, unit, default, least value and why, in one table form.

An option is a field of a frozen struct, annotated with `seconds`, `count` or `share`; `table`
lists a class's options for the documentation. Times are seconds. A default value of the pool
stands nowhere else.

A value that cannot work is refused when the options are made, by an `OptionError` that names
the option, the value and the least one.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated, TypeVar, get_type_hints

import msgspec

from amnode.errors import OptionError

Opts = TypeVar("Opts", bound=msgspec.Struct)


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What an option may be, beside its type: the annotation of its field.

    Attributes:
        unit: "s", "number" or "share".
        least: the least value that is accepted.
        most: the greatest one, or None.
        why: what the option is for, and why it is what it is.
    """

    unit: str
    least: float
    most: float | None = None
    why: str


class Option(msgspec.Struct, frozen=True):
    """One row of the table.

    Attributes:
        name: of the field.
        default: what holds unless told otherwise; None is "off".
        bounds: what it may be, and why.
    """

    name: str
    default: float | None
    bounds: Bounds


def seconds(*, least: float, why: str) -> Bounds:
    """A time; one whose default is None may be None, which means off."""
    return Bounds(unit="s", least=least, why=why)


def count(*, least: int, why: str) -> Bounds:
    """A whole number."""
    return Bounds(unit="number", least=least, why=why)


def share(*, why: str) -> Bounds:
    """A part of one, from 0 to 1."""
    return Bounds(unit="share", least=0.0, most=1.0, why=why)


@cache
def table(options: type[msgspec.Struct]) -> tuple[Option, ...]:
    """The options of a class, in the order of declaration."""
    hints = get_type_hints(options, include_extras=True)
    rows: list[Option] = []
    for declared in msgspec.structs.fields(options):
        for bounds in getattr(hints[declared.name], "__metadata__", ()):
            if isinstance(bounds, Bounds):
                rows.append(Option(declared.name, declared.default, bounds))
    return tuple(rows)


def checked(options: Opts | None, kind: type[Opts]) -> Opts:
    """The options that were given, or the defaults.

    Raises:
        OptionError: something else was given.
    """
    if options is None:
        return kind()
    if not isinstance(options, kind):
        raise OptionError(f"opts is {options!r}; it must be {kind.__name__}(...).")
    return options


def checked_token(token: bytes) -> bytes:
    """The token that was given.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(token, bytes) or not token:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(
            f"A token is bytes, such as `supervisor.token`; this one is {type(token).__name__}"
            f"{'' if token else ' and empty'}."
        )
    return token


def checked_wait(name: str, wait: float | None, *, least: float) -> float | None:
    """A time that was given for one call, in seconds; None is the default of its option.

    Raises:
        OptionError: it is no time, or too short.
    """
    if wait is not None and not _fits(wait, Bounds(unit="s", least=least, why="")):
        raise OptionError(
            f"{name} is {wait!r}; it must be a number of seconds, at least {least:g}."
        )
    return wait


def _verify(options: msgspec.Struct) -> None:
    for row in table(type(options)):
        value: object = getattr(options, row.name)
        if value is None and row.default is None:
            continue
        bounds = row.bounds
        if not _fits(value, bounds):
            limits = f"at least {bounds.least:g}" + (
                f" and at most {bounds.most:g}" if bounds.most is not None else ""
            )
            unit = {"s": "a number of seconds", "number": "a whole number"}.get(
                bounds.unit, "a share"
            )
            raise OptionError(f"{row.name} is {value!r}; it must be {unit}, {limits}.")


def _fits(value: object, bounds: Bounds) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if bounds.unit == "number" and not isinstance(value, int):
        return False
    if not math.isfinite(value):
        return False
    return value >= bounds.least and (bounds.most is None or value <= bounds.most)


class PoolSize(msgspec.Struct, frozen=True):
    """How many workers there may and should be; replaced whole, never changed.

    `min` is clamped to `max`, and 0 workers a client means `max`.

    Raises:
        OptionError: a number that cannot work.
    """

    min: Annotated[
        int, count(least=0, why="the pool is ready with this many ready workers")
    ] = 2
    max: Annotated[
        int, count(least=1, why="never more processes, starting and dying included")
    ] = 10
    warm: Annotated[
        int, count(least=0, why="idle workers beyond those in use, so that none waits")
    ] = 5
    max_per_client: Annotated[
        int, count(least=0, why="one client cannot take them all; 0 is max")
    ] = 0

    def __post_init__(self) -> None:
        _verify(self)
        msgspec.structs.force_setattr(self, "min", min(self.min, self.max))
        msgspec.structs.force_setattr(self, "max_per_client", self.max_per_client or self.max)


class LeaseTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told about one lease when it is asked to serve.

    Raises:
        OptionError: a number that cannot work.
    """

    delivery_timeout: Annotated[
        float, seconds(least=0.01, why="a lease that its client has not taken by then ends")
    ] = 5.0
    grace: Annotated[
        float,
        seconds(least=0.0, why="a cut client's job goes on that long, then its lease ends"),
    ] = 2.0
    maximum: Annotated[
        float | None, seconds(least=0.01, why="a lease is ended when it is this old; off")
    ] = None

    def __post_init__(self) -> None:
        _verify(self)


class SupervisorOptions(LeaseTerms, frozen=True, kw_only=True):
    """What a supervisor goes by; the terms of its leases are among it.

    Raises:
        OptionError: a value that cannot work.
    """

    size: PoolSize = PoolSize()

    conn_timeout: Annotated[
        float,
        seconds(
            least=0.01, why="each connection ends in it, and the silence of one that is adopted"
        ),
    ] = 5.0
    start_timeout: Annotated[
        float,
        seconds(least=0.01, why="a process is ready by then, however slow its imports are"),
    ] = 30.0
    op_timeout: Annotated[
        float, seconds(least=0.01, why="an operation on a worker, a getter")
    ] = 1.0
    heartbeat: Annotated[
        float, seconds(least=0.05, why="pool and workers are looked over so often")
    ] = 60.0
    worker_check_interval: Annotated[
        float, seconds(least=0.01, why="a ready worker is asked for a sign of life so often")
    ] = 1.0
    check_timeout: Annotated[
        float,
        seconds(
            least=0.01,
            why="a check is answered by then; three that are not are a hang, known within 16 s",
        ),
    ] = 4.5
    healthcheck_pause: Annotated[
        float, seconds(least=0.01, why="after a missed check, a lost connection or a refusal")
    ] = 0.5
    pool_pause: Annotated[
        float,
        seconds(least=0.0, why="after a process could not be started at all, before the next"),
    ] = 5.0
    lag_tolerance: Annotated[
        float,
        seconds(least=0.01, why="a supervisor later than this was held up, and blames nobody"),
    ] = 0.25

    worker_err_ttl: Annotated[
        float, seconds(least=0.0, why="errors of a worker count so long")
    ] = 600.0
    worker_err_recent: Annotated[
        float, seconds(least=0.0, why="a worker with an error this recent is not leased")
    ] = 60.0
    worker_err_kill: Annotated[
        int, count(least=1, why="with this many errors a worker is replaced")
    ] = 3

    linger: Annotated[
        float, seconds(least=0.0, why="a surplus worker stays idle so long, for the next peak")
    ] = 60.0

    leak_after: Annotated[
        float | None, seconds(least=0.01, why="a lease this long is reported, once; off")
    ] = None
    story: Annotated[
        int | None,
        count(
            least=1,
            why="what the supervisor did can be told: so many transitions are kept, each of "
            "which takes longer for it; off",
        ),
    ] = None
    crashes_kept: Annotated[
        int, count(least=0, why="reports of so many crashes are kept, in a state directory too")
    ] = 20
    outputs_kept: Annotated[
        int, count(least=0, why="the output of so many workers is kept after their end")
    ] = 10
    adopt_wait: Annotated[
        float,
        seconds(
            least=0.0,
            why="with a state directory, workers wait so long for a supervisor to come again",
        ),
    ] = 60.0

    max_jobs: Annotated[
        int | None,
        count(least=1, why="after so many jobs a worker serves no other client; off"),
    ] = None
    max_age: Annotated[
        float | None, seconds(least=0.01, why="a worker this old is replaced; off")
    ] = None
    max_rss: Annotated[
        int | None,
        count(least=1, why="a worker of so many resident bytes, at the end of a lease, is too"),
    ] = None
    renew_jitter: Annotated[
        float,
        share(why="a worker's limits are lower by up to this part, so that not all go at once"),
    ] = 0.1
    renew_at_once: Annotated[
        int,
        count(least=1, why="so many are replaced side by side, in a rolling restart too"),
    ] = 1

    restart_intensity: Annotated[
        int,
        count(least=1, why="this many failed starts in the period open the breaker, as in OTP"),
    ] = 5
    restart_period: Annotated[float, seconds(least=0.01, why="the window of the intensity")] = (
        30.0
    )
    restart_settle: Annotated[
        float,
        seconds(
            least=0.0, why="a worker that ends this soon after it was ready failed to start"
        ),
    ] = 5.0
    back_off_base: Annotated[
        float,
        seconds(least=0.001, why="the first wait of an open breaker; doubled at each failure"),
    ] = 1.0
    back_off_cap: Annotated[float, seconds(least=0.001, why="no wait is longer")] = 60.0
    back_off_jitter: Annotated[
        float,
        share(why="a wait is shorter by up to this part, so that pools do not march in step"),
    ] = 0.2

    peer_pause: Annotated[
        float,
        seconds(least=0.01, why="a request that a peer declined is passed to it again then"),
    ] = 1.0

    stop_grace: Annotated[
        float, seconds(least=0.0, why="leases may go on so long after a stop")
    ] = 5.0
    term_timeout: Annotated[
        float,
        seconds(
            least=0.01, why="from the request to end to SIGTERM, and from there to SIGKILL"
        ),
    ] = 2.0

    @property
    def terms(self) -> LeaseTerms:
        """What a worker is told when it is asked to serve a client."""
        return LeaseTerms(
            delivery_timeout=self.delivery_timeout, grace=self.grace, maximum=self.maximum
        )


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker goes by, beside the terms of each lease.

    Raises:
        OptionError: a value that cannot work.
    """

    conn_timeout: Annotated[
        float, seconds(least=0.01, why="the connection to its bootstrap is made in it")
    ] = 5.0
    orphan_ttl: Annotated[
        float,
        seconds(
            least=0.0, why="a worker without a supervisor waits so long for one, then ends"
        ),
    ] = 5.0
    release_timeout: Annotated[
        float, seconds(least=0.01, why="a cancelled job, and each hook but on_start, end in it")
    ] = 5.0
    story: Annotated[
        int | None,
        count(
            least=1,
            why="what the worker did can be told: so many transitions are kept; a call then "
            "takes half as long again; off",
        ),
    ] = None

    def __post_init__(self) -> None:
        _verify(self)


class ClientOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a client goes by.

    Raises:
        OptionError: a value that cannot work.
    """

    request_wait: Annotated[
        float, seconds(least=0.0, why="a request for a worker waits so long")
    ] = 30.0
    conn_timeout: Annotated[
        float, seconds(least=0.01, why="a connection to a supervisor or worker is made in it")
    ] = 5.0
    delivery_timeout: Annotated[
        float,
        seconds(least=0.0, why="pending calls of a lost worker wait so long for its cause"),
    ] = 5.0

    leak_after: Annotated[
        float | None, seconds(least=0.01, why="a lease held this long is reported, once; off")
    ] = None

    def __post_init__(self) -> None:
        _verify(self)


class DispatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a `Pool` gives calls to the workers that it leases for them.

    Raises:
        OptionError: a value that cannot work.
    """

    keep: Annotated[
        float, seconds(least=0.01, why="an idle worker stays leased so long, for the next call")
    ] = 1.0
    hold: Annotated[
        float,
        seconds(
            least=0.01,
            why="a busy one goes back so often, between two calls: workers are renewed then",
        ),
    ] = 5.0
    ahead: Annotated[
        int, count(least=1, why="calls that one worker has at most; all but one wait in it")
    ] = 32
    slice: Annotated[
        float,
        seconds(
            least=0.0,
            why="small calls are sent ahead, and by `map` in chunks, up to so much work",
        ),
    ] = 0.002

    def __post_init__(self) -> None:
        _verify(self)
