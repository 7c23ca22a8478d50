"""What is made before workers are forked: of the class nothing runs, and its faults wait."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from amnode.machine.binding import table_of
from amnode.machine.transition import Event
from amnode.node import warm
from amnode.node.worker import Worker

RAN: list[str] = []


class Sound(Worker):
    """Says what of it runs."""

    def __init__(self) -> None:
        RAN.append("init")
        super().__init__()

    def StartState(self, event: Event) -> None:
        RAN.append("handler")


class Faulty(Worker):
    """Has a handler that names no state."""

    def NowhereState(self, event: Event) -> None:
        """Never called."""


class Nothing:
    """No worker class."""


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "kept", [])
    RAN.clear()


def prepared(cls: type[Any]) -> list[Any]:
    target = warm.Target(f"{__name__}:{cls.__qualname__}", b"")
    warm.prepare(msgspec.msgpack.encode(target))
    return warm.kept


def test_what_all_workers_share_is_made_and_nothing_of_the_class_runs() -> None:
    (machine, _jobs), _connections = prepared(Sound)
    assert machine.schema is Sound.schema.schema()
    assert table_of(machine.schema, object.__new__(Sound)) is machine._bindings[0].table
    assert not machine.active_states() and not RAN


def test_a_class_that_cannot_work_is_left_to_its_workers() -> None:
    assert prepared(Faulty) == []


def test_another_class_is_only_imported() -> None:
    assert prepared(Nothing) == []
