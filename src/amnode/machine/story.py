"""Story: what a machine did and why, as a bounded log that a person can read.

    story = machine.tell_story()
    ...
    print(story)

    #1 add Open -> Open+ 1
      #2 add Lit, by OpenState of #1 -> Lit+ 1
    #3 add Locked: refused by LockedEnter

An effect stands below its cause, indented: `#2` was asked for by the handler `OpenState` while
`#1` ran. `+` is an activation, `-` a deactivation, `*` another call of an active Multi state,
each with its new tick. Automatic mutations say so. A story may be shared by several machines;
each line then begins with the machine.

A story is a tracer: a machine without one pays nothing. When an error is recorded, it gets the
story so far as a note, so that its traceback ends with what led to it. `lines` and `read` take
a story to a file of JSON lines and back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from amnode.errors import OptionError
from amnode.machine.clock import is_active_tick

if TYPE_CHECKING:
    from amnode.machine.transition import Event, Transition

#: How many of the last transitions an error gets as its note.
IN_A_NOTE = 20


class Entry(msgspec.Struct, kw_only=True):
    """One transition.

    Attributes:
        number: counts all transitions of the story, from 1.
        machine: id of the machine.
        type: "add", "remove" or "set".
        called: names of the states asked for.
        auto: the machine asked for them itself.
        cause: number of the transition whose handler or task asked for it; 0 for none.
        cause_handler: name of that handler.
        accepted: False if it was canceled.
        changes: name and new tick of each state that changed.
        again: those of them that were active before and are so now.
        handler: who refused or raised; "" if nobody did.
        error: what that handler raised, as text.
        running: it has not ended yet.
    """

    number: int
    machine: str
    type: str
    called: tuple[str, ...]
    auto: bool = False
    cause: int = 0
    cause_handler: str = ""
    accepted: bool = False
    changes: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    again: tuple[str, ...] = ()
    handler: str = ""
    error: str = ""
    running: bool = False

    def tell(self) -> str:
        """The entry in words, on one line."""
        asked = f"{'auto ' if self.auto else ''}{self.type} {' '.join(self.called)}"
        why = ""
        if self.cause_handler:
            why = f", by {self.cause_handler} of " + (f"#{self.cause}" if self.cause else "?")
        return f"#{self.number} {asked}{why}{self._outcome()}"

    def _outcome(self) -> str:
        if self.running:
            return ": running"
        changes = " ".join(f"{n}{self._sign(n)} {t}" for n, t in self.changes.items())
        if self.error:
            told = f": {self.handler} raised {self.error}"
            return f"{told} -> {changes}" if changes else told
        if not self.accepted:
            by = self.handler or "the relations"
            return f": refused by {by}"
        return f" -> {changes}" if changes else " -> nothing changed"

    def _sign(self, name: str) -> str:
        if not is_active_tick(self.changes[name]):
            return "-"
        return "*" if name in self.again else "+"


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Entry)


class Story:
    """A log of the last transitions of a machine, or of several.

    Args:
        limit: how many transitions it holds; 100 by default, at least 1.
    """

    def __init__(self, limit: int = 100) -> None:
        if limit < 1:
            raise OptionError(f"A story of {limit} transitions tells nothing; use at least 1.")
        self._limit = limit
        self._told = 0
        self._entries: deque[tuple[int, Entry]] = deque()
        #: By the identity of the transition. While something refers to one as its cause it
        #: lives, so its identity is its own; a later one that gets the identity takes over.
        self._known: dict[int, Entry] = {}
        self._open: dict[int, tuple[int, ...]] = {}

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The transitions, oldest first."""
        return tuple(entry for _, entry in self._entries)

    def __str__(self) -> str:
        return render(self.entries)

    # -- as a tracer -----------------------------------------------------------------------

    def transition_start(self, transition: Transition) -> None:
        """A transition begins: it has a number, and a cause."""
        self._told += 1
        mutation, machine = transition.mutation, transition.machine
        entry = Entry(
            number=self._told,
            machine=machine.id,
            type=transition.type.name.lower(),
            called=tuple(machine.state_names[i] for i in transition.called),
            auto=transition.auto,
            running=True,
        )
        error = getattr(mutation.args, "error", None)
        if isinstance(error, BaseException) and "Exception" in entry.called:
            self._note(error)
        if mutation.cause is not None:
            entry.cause_handler = mutation.cause.name
            cause = self._known.get(id(mutation.cause.transition))
            entry.cause = 0 if cause is None else cause.number
        self._keep(id(transition), entry)
        self._open[id(transition)] = machine.time()

    def _keep(self, key: int, entry: Entry) -> None:
        self._entries.append((key, entry))
        self._known[key] = entry
        if len(self._entries) > self._limit:
            oldest, gone = self._entries.popleft()
            if self._known.get(oldest) is gone:
                del self._known[oldest]

    def handler_end(self, event: Event, answer: object) -> None:
        """A handler refused, or raised."""
        entry = self._known.get(id(event.transition))
        if entry is None or event.is_check:
            return
        if isinstance(answer, BaseException):
            entry.handler, entry.error = event.name, repr(answer)
        elif answer is False:
            entry.handler = event.name

    def transition_end(self, transition: Transition) -> None:
        """A transition has ended: what changed is known."""
        before = self._open.pop(id(transition), ())
        entry = self._known.get(id(transition))
        if entry is None or not before:
            return
        entry.running = False
        if entry.auto and not transition.accepted and not entry.handler:
            self._forget(id(transition), entry)
            return
        machine = transition.machine
        entry.accepted = transition.accepted
        names = [machine.state_names[i] for i in transition.changed]
        entry.changes = {name: machine.tick(name) for name in names}
        entry.again = tuple(
            name
            for i, name in zip(transition.changed, names, strict=True)
            if is_active_tick(before[i])
        )

    def _forget(self, key: int, entry: Entry) -> None:
        """Automatic states that could not be are no news."""
        if self._entries[-1][1] is entry:
            self._entries.pop()
            self._known.pop(key)
            self._told -= 1

    def _note(self, error: BaseException) -> None:
        title = "What the machines did before, the last at the end:"
        notes = getattr(error, "__notes__", ())
        if self._entries and not any(note.startswith(title) for note in notes):
            error.add_note(f"{title}\n{render(self.entries[-IN_A_NOTE:])}")

    # -- to a file and back ----------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """The entries as JSON, each a line, as `read` takes them."""
        for entry in self.entries:
            yield _ENCODER.encode(entry).decode() + "\n"


def read(lines: Iterable[str]) -> list[Entry]:
    """The entries of a recorded story.

    Raises:
        OptionError: a line is not an entry; it has the number of the line.
    """
    entries: list[Entry] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                entries.append(_DECODER.decode(line))
            except msgspec.DecodeError as error:
                raise OptionError(f"Line {number} is no entry of a story: {error}.") from None
    return entries


def render(entries: Iterable[Entry]) -> str:
    """Entries as lines: effects below their causes, indented."""
    listed = list(entries)
    several = len({entry.machine: None for entry in listed}) > 1
    depth: dict[int, int] = {}
    lines: list[str] = []
    for entry in listed:
        depth[entry.number] = depth[entry.cause] + 1 if entry.cause in depth else 0
        who = f"{entry.machine} " if several else ""
        lines.append(f"{'  ' * depth[entry.number]}{who}{entry.tell()}")
    return "\n".join(lines)


def replay(entries: Iterable[Entry]) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """Each entry with the ticks of its machine's states after it, as far as they are told."""
    clocks: dict[str, dict[str, int]] = {}
    for entry in entries:
        clock = clocks.setdefault(entry.machine, {})
        clock.update(entry.changes)
        yield entry, dict(clock)
