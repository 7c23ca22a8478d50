"""Who holds the loop is told, with name and stack; others are not, and no thread is left."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Iterator

import pytest

from amnode.errors import HandlerTimeoutError, MachineError, OptionError
from amnode.machine.machine import Machine
from amnode.machine.mixins import Basic
from amnode.machine.schema import Schema, State
from amnode.machine.transition import Event
from amnode.machine.watchdog import WATCHDOG, Watchdog

SCHEMA = Schema({"A": State(), "B": State()})


class Reported(logging.Handler):
    """Lets a handler go on once it has been reported."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = threading.Semaphore(0)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self.seen.release()

    def hold(self, event: object = None) -> None:
        assert self.seen.acquire(timeout=20)


@pytest.fixture
def reported() -> Iterator[Reported]:
    handler, logger = Reported(), logging.getLogger("amnode.machine")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def watched(*_: object) -> int:
    return len(WATCHDOG._watches)


async def test_a_handler_that_holds_the_loop(reported: Reported) -> None:
    m = Machine(Basic, id="m", handler_timeout=0.01)
    m.bind({"ReadyState": reported.hold, "StartState": lambda _: m.add1("Ready") and None})
    m.add1("Start")
    await m.when1("ErrHandlerTimeout")
    assert isinstance(m.err, HandlerTimeoutError)
    assert "Handler ReadyState of machine m holds the loop for more than 0.01 s" in str(m.err)
    assert "reported.hold" in str(m.err) or "in hold" in str(m.err)
    assert reported.texts == [str(m.err)]
    assert m.is_(("Start", "Ready", "Exception"))
    await m.dispose()
    assert WATCHDOG._thread is None


async def test_exception_alone_where_the_schema_lacks_the_state(reported: Reported) -> None:
    m = Machine(SCHEMA, id="m", handler_timeout=0.01)
    m.bind({"AEnter": reported.hold, "BExit": reported.hold})
    m.add(("A", "B"))
    m.remove1("B")  # each is reported for itself
    await m.when_err()
    await asyncio.sleep(0)
    assert "Handler BExit" in str(m.err)
    assert [text.split(" of ")[0] for text in reported.texts] == [
        "Handler AEnter",
        "Handler BExit",
    ]
    await m.dispose()


async def test_a_task_that_holds_the_loop(reported: Reported) -> None:
    m = Machine(SCHEMA, id="m", handler_timeout=0.01)

    async def work(event: Event) -> None:
        await asyncio.sleep(0)
        reported.hold()

    m.bind({"AState": work})
    m.add1("A")
    await m.when_err()
    assert "A task of A of machine m holds the loop" in str(m.err)
    assert "in work" in str(m.err)
    await m.dispose()


async def test_one_thread_watches_all_until_the_last_has_gone(reported: Reported) -> None:
    one, two = (Machine(SCHEMA, id=id, handler_timeout=t) for id, t in (("1", 60), ("2", 0.01)))
    assert watched() == 2
    thread = WATCHDOG._thread
    two.bind({"AState": reported.hold})
    two.add1("A")
    await two.when_err()
    assert not one.is_err
    await two.dispose()
    assert WATCHDOG._thread is thread
    await one.dispose()
    assert thread is not None
    assert not thread.is_alive()


async def test_a_machine_that_is_no_more_is_forgotten() -> None:
    watchdog = Watchdog()
    m = Machine(SCHEMA, id="m")
    watchdog.watch(m, 0.001)
    thread = watchdog._thread
    assert thread is not None
    m._dispose_hooks = ()
    del m
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()


async def test_what_cannot_be_watched() -> None:
    with pytest.raises(OptionError, match="handler_timeout is 0"):
        Machine(SCHEMA, id="m", handler_timeout=0)
    with pytest.raises(MachineError, match="needs a running loop"):
        await asyncio.to_thread(Machine, SCHEMA, id="m", handler_timeout=1)
    assert not watched()


def test_a_loop_that_is_closed_is_not_asked(reported: Reported) -> None:
    """The handler outlives its loop: it is logged, and there is no state to add."""
    loop = asyncio.new_event_loop()

    async def make() -> Machine:
        return Machine(SCHEMA, id="m", handler_timeout=0.01)

    m = loop.run_until_complete(make())
    loop.close()
    m.bind({"AState": reported.hold})
    m.add1("A")
    assert not m.is_err
    other = asyncio.new_event_loop()
    other.run_until_complete(m.dispose())
    other.close()
    assert len(reported.texts) == 1
