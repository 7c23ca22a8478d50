"""Every option of the pool: name, unit, default, least value and why, in one table form.

An option is a field of a frozen class, declared with `seconds`, `count` or `share`; `table`
lists a class's options for the documentation. Times are seconds. A default value of the pool
stands nowhere else.

A value that cannot work is refused when the options are made, by an `OptionError` that names
the option, the value and the least one.
"""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, field, fields
from typing import Any, cast

from amnode.errors import OptionError


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table.

    Attributes:
        name: of the field.
        unit: "s", "number" or "share".
        default: what holds unless told otherwise; None is "off".
        least: the least value that is accepted.
        most: the greatest one, or None.
        why: what the option is for, and why it is what it is.
    """

    name: str
    unit: str
    default: float | None
    least: float
    most: float | None
    why: str


def seconds(default: float | None, *, least: float, why: str) -> Any:
    """Declare a time; one whose default is None may be None, which means off."""
    return _declare("s", default, least, None, why)


def count(default: int, *, least: int, why: str) -> Any:
    """Declare a whole number."""
    return _declare("number", default, least, None, why)


def share(default: float, *, why: str) -> Any:
    """Declare a part of one, from 0 to 1."""
    return _declare("share", default, 0.0, 1.0, why)


def _declare(
    unit: str, default: float | None, least: float, most: float | None, why: str
) -> Any:
    row = Option("", unit, default, least, most, why)
    return field(default=default, metadata={"option": row})


def table(options: type[Any]) -> tuple[Option, ...]:
    """The options of a class, in the order of declaration."""
    return tuple(_row(f) for f in fields(options) if "option" in f.metadata)


def _row(declared: Field[Any]) -> Option:
    row: Option = declared.metadata["option"]
    return Option(declared.name, row.unit, row.default, row.least, row.most, row.why)


def _verify(options: Any) -> None:
    for row in table(cast("type[Any]", type(options))):
        value: object = getattr(options, row.name)
        if value is None and row.default is None:
            continue
        if not _fits(value, row):
            bounds = f"at least {row.least:g}" + (
                f" and at most {row.most:g}" if row.most is not None else ""
            )
            unit = {"s": "a number of seconds", "number": "a whole number"}.get(
                row.unit, "a share"
            )
            raise OptionError(f"{row.name} is {value!r}; it must be {unit}, {bounds}.")


def _fits(value: object, row: Option) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if row.unit == "number" and not isinstance(value, int):
        return False
    if not math.isfinite(value):
        return False
    return value >= row.least and (row.most is None or value <= row.most)


@dataclass(frozen=True, slots=True)
class PoolSize:
    """How many workers there may and should be; replaced whole, never changed.

    `min` is clamped to `max`, and 0 workers a client means `max`.

    Raises:
        OptionError: a number that cannot work.
    """

    min: int = count(2, least=0, why="the pool is ready with this many ready workers")
    max: int = count(10, least=1, why="never more processes, starting and dying included")
    warm: int = count(5, least=0, why="idle workers beyond those in use, so that none waits")
    max_per_client: int = count(0, least=0, why="one client cannot take them all; 0 is max")

    def __post_init__(self) -> None:
        _verify(self)
        object.__setattr__(self, "min", min(self.min, self.max))
        object.__setattr__(self, "max_per_client", self.max_per_client or self.max)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerms:
    """What a worker is told about one lease when it is asked to serve.

    Raises:
        OptionError: a number that cannot work.
    """

    delivery_timeout: float = seconds(
        5.0, least=0.01, why="a lease that its client has not taken by then ends"
    )
    grace: float = seconds(
        2.0, least=0.0, why="a cut client's job goes on that long, then its lease ends"
    )
    maximum: float | None = seconds(
        None, least=0.01, why="a lease is ended when it is this old; off"
    )

    def __post_init__(self) -> None:
        _verify(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorOptions:
    """What a supervisor goes by.

    Raises:
        OptionError: a value that cannot work.
    """

    size: PoolSize = PoolSize()

    conn_timeout: float = seconds(
        5.0, least=0.01, why="each step of a start, each connection and each check ends in it"
    )
    delivery_timeout: float = seconds(
        5.0, least=0.01, why="a hand-over that the client has not taken by then ends"
    )
    op_timeout: float = seconds(1.0, least=0.01, why="an operation on a worker, a getter")
    heartbeat: float = seconds(
        60.0, least=0.05, why="pool and workers are looked over so often"
    )
    worker_check_interval: float = seconds(
        1.0, least=0.01, why="a ready worker is asked for a sign of life so often"
    )
    healthcheck_pause: float = seconds(
        0.5, least=0.01, why="after a missed check, a lost connection or a refusal"
    )
    pool_pause: float = seconds(
        5.0, least=0.0, why="after a process could not be started at all, before the next"
    )
    lag_tolerance: float = seconds(
        0.25, least=0.01, why="a supervisor later than this was held up, and blames nobody"
    )

    worker_err_ttl: float = seconds(600.0, least=0.0, why="errors of a worker count so long")
    worker_err_recent: float = seconds(
        60.0, least=0.0, why="a worker with an error this recent is not leased"
    )
    worker_err_kill: int = count(3, least=1, why="with this many errors a worker is replaced")

    linger: float = seconds(
        60.0, least=0.0, why="a surplus worker stays idle so long, for the next peak"
    )
    grace: float = seconds(
        2.0, least=0.0, why="a cut client's job goes on that long, then its lease ends"
    )
    maximum: float | None = seconds(
        None, least=0.01, why="a lease is ended when it is this old; off"
    )

    restart_intensity: int = count(
        5, least=1, why="this many failed starts in the period open the breaker, as in OTP"
    )
    restart_period: float = seconds(30.0, least=0.01, why="the window of the intensity")
    restart_settle: float = seconds(
        5.0, least=0.0, why="a worker that ends this soon after it was ready failed to start"
    )
    back_off_base: float = seconds(
        1.0, least=0.001, why="the first wait of an open breaker; doubled at each failure"
    )
    back_off_cap: float = seconds(60.0, least=0.001, why="no wait is longer")
    back_off_jitter: float = share(
        0.2, why="a wait is shorter by up to this part, so that pools do not march in step"
    )

    stop_grace: float = seconds(5.0, least=0.0, why="leases may go on so long after a stop")
    term_timeout: float = seconds(
        2.0, least=0.01, why="from the request to end to SIGTERM, and from there to SIGKILL"
    )

    def __post_init__(self) -> None:
        _verify(self)

    @property
    def terms(self) -> LeaseTerms:
        """What a worker is told when it is asked to serve a client."""
        return LeaseTerms(
            delivery_timeout=self.delivery_timeout, grace=self.grace, maximum=self.maximum
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker goes by, beside the terms of each lease.

    Raises:
        OptionError: a value that cannot work.
    """

    conn_timeout: float = seconds(
        5.0, least=0.01, why="the connection to its bootstrap is made in it"
    )
    orphan_ttl: float = seconds(
        5.0, least=0.0, why="a worker without a supervisor waits so long for one, then ends"
    )
    release_timeout: float = seconds(
        5.0, least=0.01, why="a cancelled job, and the hook after a lease, end in it"
    )

    def __post_init__(self) -> None:
        _verify(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """What a client goes by.

    Raises:
        OptionError: a value that cannot work.
    """

    request_wait: float = seconds(30.0, least=0.0, why="a request for a worker waits so long")
    conn_timeout: float = seconds(
        5.0, least=0.01, why="a connection to a supervisor or worker is made in it"
    )
    delivery_timeout: float = seconds(
        5.0, least=0.0, why="pending calls of a lost worker wait so long for its cause"
    )

    def __post_init__(self) -> None:
        _verify(self)
