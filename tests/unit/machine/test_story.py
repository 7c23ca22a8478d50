"""The story: causes and effects, who refused and raised, its limit, its file, its note."""

from __future__ import annotations

import asyncio
import traceback

import pytest

from amnode.errors import OptionError
from amnode.machine.machine import Machine
from amnode.machine.schema import State, States
from amnode.machine.story import Entry, Story, read, render, replay
from amnode.machine.transition import Event, Transition


class Flags(States):
    A = State()
    B = State()
    C = State(remove=("A",))
    M = State(multi=True)
    Never = State(require=("A", "C"))
    Ready = State(auto=True, require=("A",))


def machine(id: str = "m", parent: Machine | None = None) -> Machine:
    return Machine(Flags, id=id, parent=parent)


def test_effects_stand_below_their_causes() -> None:
    m = machine()
    story = m.tell_story()
    m.bind(
        {
            "AState": lambda _: m.add1("M") and None,
            "MState": lambda _: m.add1("B") and None,
            "BEnter": lambda e: e.mutation.cause.transition is None,
        }
    )
    m.add1("A")
    m.add1("M")
    m.add1("C")
    m.add1("Never")
    m.remove1("B")
    assert str(story).splitlines() == [
        "#1 add A -> A+ 1",
        "#2 auto add Ready -> Ready+ 1",
        "  #3 add M, by AState of #1 -> M+ 1",
        "    #4 add B, by MState of #3: refused by BEnter",
        "#5 add M -> M* 3",
        "  #6 add B, by MState of #5: refused by BEnter",
        "#7 add C -> A- 2 Ready- 2 C+ 1",
        "#8 add Never: refused by the relations",
        "#9 remove B -> nothing changed",
    ]
    assert m.can_add1("B") is False  # asking is not told
    assert len(story.entries) == 9


def test_an_error_carries_what_led_to_it() -> None:
    m = machine()
    story = m.tell_story()

    def fail(event: Event) -> None:
        raise ValueError("broken")

    m.bind({"BState": fail, "AState": lambda _: m.add1("B") and None})
    m.add1("A")
    error = m.err
    assert error is not None
    assert error.__notes__ == [
        "What the machines did before, the last at the end:\n"
        "#1 add A -> A+ 1\n"
        "#2 auto add Ready -> Ready+ 1\n"
        "  #3 add B, by AState of #1: BState raised ValueError('broken') -> B- 2"
    ]
    m.remove1("Exception")
    m.add_err(error)
    assert len(error.__notes__) == 1
    assert "#3 add B" in "".join(traceback.format_exception(error))
    assert len(story.entries) > 4


def test_an_error_in_negotiation_and_one_that_nobody_raised() -> None:
    m = machine()
    story = m.tell_story()

    def fail(event: Event) -> None:
        raise ValueError("no")

    m.bind({"BEnter": fail})
    m.add1("B")
    assert story.entries[0].tell() == "#1 add B: BEnter raised ValueError('no')"
    m.add_err(OSError("from outside"))
    assert m.err is not None
    assert "#1 add B" in m.err.__notes__[0]


async def test_a_task_is_a_cause_too() -> None:
    m = machine()
    story = m.tell_story()

    async def work(event: Event) -> None:
        await asyncio.sleep(0)
        m.add1("M")

    m.bind({"BState": work})
    m.add1("B")
    await m.when1("M")
    assert story.entries[-1].tell() == "#2 add M, by BState of #1 -> M+ 1"


def test_it_is_bounded_and_may_come_late() -> None:
    m, stories = machine(), list[Story]()
    m.bind({"AState": lambda _: stories.append(m.tell_story(2)) or (m.add1("M") and None)})
    m.add1("A")
    story = stories[0]
    assert [e.tell() for e in story.entries] == [
        "#1 auto add Ready -> Ready+ 1",
        "#2 add M, by AState of ? -> M+ 1",
    ]
    m.add1("B")
    m.add1("B")
    assert [entry.number for entry in story.entries] == [3, 4]
    assert story._open == {}
    for limit in (0, -1):
        with pytest.raises(OptionError, match="use at least 1"):
            Story(limit)


def test_a_nested_transition_may_push_its_cause_out() -> None:
    m = machine()
    story = m.tell_story(1)
    m.bind({"AState": lambda _: m.add1("M") and None})
    m.add1("A")
    assert str(story) == "#3 add M, by AState of ? -> M+ 1"


def test_told_from_inside() -> None:
    m, seen = machine(), list[str]()
    story = m.tell_story()
    m.bind({"BState": lambda _: seen.append(str(story))})
    m.add1("B")
    assert seen == ["#1 add B: running"]
    other = machine()
    other.tell_story()
    other.add_err(ValueError("the first thing that happens"))
    assert not hasattr(other.err, "__notes__")


def test_several_machines_in_one_story() -> None:
    root = machine("root")
    story = root.tell_story(inherit=True)
    child = machine("child", root)
    root.bind({"BState": lambda _: child.add1("B") and None})
    root.add1("B")
    assert str(story).splitlines() == [
        "root #1 add B -> B+ 1",
        "  child #2 add B, by BState of #1 -> B+ 1",
    ]
    root.untrace(story)
    root.add1("M")
    assert len(story.entries) == 2


def test_a_story_goes_to_a_file_and_back() -> None:
    m = machine()
    story = m.tell_story()
    m.add1("A")
    m.add1("C")
    entries = read([*story.lines(), "\n"])
    assert entries == list(story.entries)
    assert render(entries) == str(story)
    clocks = [clock for _, clock in replay(entries)]
    assert clocks[-1] == {"A": 2, "Ready": 2, "C": 1}
    assert clocks[0] == {"A": 1}
    with pytest.raises(OptionError, match="Line 2 is no entry"):
        read(["", '{"number": 1}'])


def test_who_is_not_known_is_not_followed() -> None:
    """Hooks for a transition that began before the story did change nothing."""
    story, seen = Story(), list[Event]()
    m = machine()
    m.bind({"AState": seen.append})
    m.add1("A")
    story.handler_end(seen[0], False)
    story.transition_end(seen[0].transition)
    assert story.entries == ()
    entry = Entry(number=1, machine="m", type="add", called=("A",), handler="X", error="e")
    assert entry.tell() == "#1 add A: X raised e"


def test_automatic_states_that_could_not_be_are_left_out() -> None:
    """But not where something else has been told since, whose number would be wrong."""
    m = machine()
    story = m.tell_story()
    m.add1("B")
    m.add1("M")
    assert [entry.number for entry in story.entries] == [1, 2]

    other = machine("other")
    other.trace(story)

    class Interrupting:
        def transition_start(self, transition: Transition) -> None:
            if transition.auto:
                other.add1("A")

    m.trace(Interrupting())
    m.add1("C")
    assert [entry.tell() for entry in story.entries[2:]] == [
        "#3 add C -> C+ 1",
        "#4 auto add Ready: refused by the relations",
        "#5 add A -> A+ 1",
        "#6 auto add Ready -> Ready+ 1",
    ]


def test_a_later_transition_takes_over_an_identity() -> None:
    seen: list[Event] = []
    m = machine()
    m.bind({"AState": seen.append})
    m.add1("A")
    story = Story(1)
    for _ in range(2):
        story.transition_start(seen[0].transition)
    story.transition_end(seen[0].transition)
    assert [(e.number, e.running) for e in story.entries] == [(2, False)]
