"""Telling: what an actor says to an operator who looks into its machine.

Ticks and states an operator has from a replica. What a replica does not show is told here, as
a stream: first an `Inspection` with the last error, what may be changed, and the story so far;
then, if the operator follows, one for all that was added to the story meanwhile.

1. A story costs time at each transition, so there is one from the start only where the option
   `story` says so, else while somebody follows. It holds the last `SHOWN` transitions then.
2. A reader that is slow loses the oldest of what it has not read, and is told how many.
3. What operators themselves ask for in order to look is left out, everywhere.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable

import msgspec

from amnode.machine.machine import Machine
from amnode.machine.story import Entry, Story
from amnode.rpc.exposure import Exposure, Opened

#: Transitions of a story that is kept only while somebody follows.
SHOWN = 200

#: The states by which operators look, and which change nothing (rule 3).
LOOKS = frozenset(
    ("Inspect", "ListCrashes", "ListWorkers", "ReachWorker", "ReadOutput", "ServeOperator")
)


class Argument(msgspec.Struct, frozen=True):
    """One argument that a state takes: its name, its type as text, whether it is needed."""

    name: str
    type: str
    needed: bool


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What an actor tells of its machine.

    Attributes:
        machine: its id.
        error: the last error that it recorded, as text with its notes; "" if there is none.
        trace: where that was raised.
        may_add: the states that an operator may add, each with its arguments.
        may_remove: likewise.
        kept: how many transitions the story holds; 0 if none is kept while nobody follows.
        story: transitions, oldest first: all that are kept, then those that are new.
        missed: how many there were between these and the ones told before.
    """

    machine: str
    error: str = ""
    trace: str = ""
    may_add: dict[str, tuple[Argument, ...]] = {}
    may_remove: dict[str, tuple[Argument, ...]] = {}
    kept: int = 0
    story: tuple[Entry, ...] = ()
    missed: int = 0


class Teller:
    """Tells operators of one machine.

    Args:
        machine: of the actor.
        exposure: what an operator may change; asked when somebody looks.
        keep: transitions that the story holds from now on; None for none (rule 1).
    """

    def __init__(
        self, machine: Machine, exposure: Callable[[], Exposure], keep: int | None = None
    ) -> None:
        self._machine = machine
        self._exposure = exposure
        self._keep = keep
        self._story: Story | None = machine.tell_story(keep) if keep else None
        self._bells: dict[_Bell, None] = {}

    async def tell(self, *, follow: bool) -> AsyncIterator[Inspection]:
        """What there is to tell, then what is added as long as the reader reads."""
        if not follow:
            yield self._whole()
            return
        bell = _Bell()
        story = self._begin(bell)
        try:
            told = _last(story)  # before the reader is given anything: nothing falls between
            yield self._whole()
            while True:
                await bell.rung()
                new, missed = _after(story, told)
                if new:
                    told = new[-1].number
                    yield self._added(new, missed)
        finally:
            self._end(bell)

    def _begin(self, bell: _Bell) -> Story:
        if self._story is None:
            self._story = self._machine.tell_story(SHOWN)
        self._machine.trace(bell)  # after the story, which has the transition by then
        self._bells[bell] = None
        return self._story

    def _end(self, bell: _Bell) -> None:
        self._machine.untrace(bell)
        self._bells.pop(bell, None)
        if not self._bells and not self._keep and self._story is not None:
            self._machine.untrace(self._story)
            self._story = None

    def _whole(self) -> Inspection:
        error, exposure = self._machine.err, self._exposure()
        return Inspection(
            machine=self._machine.id,
            error=_text(error),
            trace="" if error is None else "".join(traceback.format_tb(error.__traceback__)),
            may_add=_arguments(exposure.mutable),
            may_remove=_arguments(exposure.removable),
            kept=self._keep or 0,
            story=() if self._story is None else tuple(_shown(self._story)),
        )

    def _added(self, new: tuple[Entry, ...], missed: int) -> Inspection:
        shown = tuple(entry for entry in new if LOOKS.isdisjoint(entry.called))
        return Inspection(
            machine=self._machine.id, error=_text(self._machine.err), story=shown, missed=missed
        )


class _Bell:
    """A tracer that wakes whoever waits for the next transition."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def transition_end(self, _transition: object) -> None:
        """A transition has ended."""
        self._event.set()

    async def rung(self) -> None:
        """Waits for the next one, or returns at once if there was one since."""
        await self._event.wait()
        self._event.clear()


def _last(story: Story) -> int:
    entries = story.entries
    return entries[-1].number if entries else 0


def _shown(story: Story) -> list[Entry]:
    """Whole transitions only; the one in which this is asked is still running."""
    entries = (entry for entry in story.entries if not entry.running)
    return [entry for entry in entries if LOOKS.isdisjoint(entry.called)]


def _after(story: Story, number: int) -> tuple[tuple[Entry, ...], int]:
    """The ended transitions after one, and how many before them are lost (rule 2)."""
    new: list[Entry] = []
    for entry in story.entries:
        if entry.number > number:
            if entry.running:
                break
            new.append(entry)
    missed = new[0].number - number - 1 if new else 0
    return tuple(new), missed


def _text(error: BaseException | None) -> str:
    """An error as its own last lines of a traceback, without the story that is told anyway."""
    if error is None:
        return ""
    notes = [n for n in getattr(error, "__notes__", ()) if not n.startswith(_STORY_NOTE)]
    return "\n".join((f"{type(error).__name__}: {error}", *notes))


#: How the note begins that a story leaves at an error.
_STORY_NOTE = "What the machines did before"


def _arguments(opened: Opened) -> dict[str, tuple[Argument, ...]]:
    changes = (name for name in opened if name not in LOOKS)
    return {str(name): _fields(opened[name]) for name in sorted(changes)}


def _fields(
    structs: type[msgspec.Struct] | tuple[type[msgspec.Struct], ...] | None,
) -> tuple[Argument, ...]:
    """Of a state that takes one of several structs, the fields of all of them."""
    if structs is None:
        return ()
    found = {
        field.name: Argument(field.name, _type_name(field.type), field.required)
        for struct in (structs if isinstance(structs, tuple) else (structs,))
        for field in msgspec.structs.fields(struct)
    }
    return tuple(found.values())


def _type_name(type_: object) -> str:
    return type_.__name__ if isinstance(type_, type) else str(type_)
