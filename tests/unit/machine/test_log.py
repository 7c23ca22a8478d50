"""Each level of the log tells what it says, with data for formatters."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from amnode.machine.log import LogLevel, MachineLog
from amnode.machine.machine import Machine
from amnode.machine.schema import Schema, State
from amnode.machine.transition import Event

CHANGES = ["+A 1", "+B 1", "-A 2", "+Exception 1", "disposed"]


def fail(event: Event) -> None:
    raise ValueError("x")


async def story(level: LogLevel) -> None:
    m = Machine(Schema({name: State() for name in "ABCD"}), id="m")
    m.trace(MachineLog(level, logging.getLogger("mine")))
    m.bind(
        {"AState": lambda _: m.add1("B") and None, "CEnter": lambda _: False, "DEnter": fail}
    )
    m.add1("A")
    m.remove1("A")
    m.remove1("A")
    m.add1("C")
    m.add1("D")
    await m.dispose()


@pytest.mark.parametrize(
    ("level", "more"),
    [
        (LogLevel.CHANGES, []),
        (
            LogLevel.OPERATIONS,
            ["add B queued", "remove A changed nothing", "add C canceled", "add D canceled"],
        ),
        (LogLevel.DECISIONS, ["CEnter refused", "DEnter raised ValueError('x')"]),
        (LogLevel.EVERYTHING, ["AState runs", "CEnter runs", "DEnter runs"]),
    ],
)
async def test_a_level_tells_this(
    level: LogLevel, more: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "mine"):
        await story(level)
    told = [record.getMessage().removeprefix("[m] ") for record in caplog.records]
    assert {*CHANGES, *more} <= {*told}
    assert [text for text in told if text in CHANGES] == CHANGES
    if level is LogLevel.CHANGES:
        assert told == CHANGES


async def test_records_have_data_and_levels(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "mine"):
        await story(LogLevel.OPERATIONS)
    first: Any = caplog.records[1]
    assert (first.machine, first.what, first.states) == ("m", "changed", ("A",))
    assert first.levelno == logging.INFO
    queued: Any = caplog.records[0]
    assert (queued.what, queued.states, queued.levelno) == ("queued", ("B",), logging.DEBUG)
    assert {record.what for record in caplog.records if record.levelno == logging.DEBUG} == {  # type: ignore[attr-defined]
        "queued",
        "same",
        "canceled",
    }


def test_by_default_changes_go_to_the_packages_logger(
    caplog: pytest.LogCaptureFixture,
) -> None:
    m = Machine(Schema({"A": State()}), id="m", tracers=[MachineLog()])
    with caplog.at_level(logging.INFO, "amnode.machine"):
        m.add1("A")
    assert caplog.messages == ["[m] +A 1"]
