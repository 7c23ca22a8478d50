"""Which supervisor a worker belongs to: claims, and the one that holds.

A supervisor with a state directory counts its starts: the *generation*. Each start is an
*instance* too, for somebody may have copied the directory. Both are in the id with which a
supervisor connects to its workers, so the worker knows them before it says anything.

1. A higher generation than any before takes the worker over; the connection of the one before
   is closed.
2. A lower one is *stale*, for good.
3. An equal one of another instance is stale while the first one is connected.
4. The same instance may come again; its new connection replaces its old one.
"""

from __future__ import annotations

import re

import msgspec

#: How the refusal begins that tells a supervisor to let go of a worker.
STALE = "stale"

_CLAIM = re.compile(r"@(\d{1,18})\.([0-9a-f]{1,64})(?:/probe)?\Z")


class Claim(msgspec.Struct, frozen=True):
    """What a supervisor shows: which start of which instance it is."""

    generation: int
    instance: str

    def connection_id(self, machine_id: str, *, probe: bool = False) -> str:
        """The id of its connection to a worker; a probe is beside the one that lasts."""
        suffix = "/probe" if probe else ""
        return f"rc-{machine_id}@{self.generation}.{self.instance}{suffix}"

    @classmethod
    def of(cls, connection_id: str) -> Claim | None:
        """The claim in the id of a connection, or None."""
        found = _CLAIM.search(connection_id)
        return cls(int(found[1]), found[2]) if found else None


class Owner:
    """The supervisor that a worker belongs to, as the worker knows it."""

    def __init__(self) -> None:
        self._highest = Claim(0, "")
        self._connected = 0

    def refusal(self, claim: Claim | None) -> str:
        """Why a supervisor is not let in, or ""."""
        if claim is None:
            return "a supervisor shows its generation and its instance in its id"
        if claim.generation < self._highest.generation:
            return (
                f"{STALE}: generation {claim.generation} is over, this worker has served "
                f"generation {self._highest.generation}"
            )
        equal = claim.generation == self._highest.generation
        if equal and claim.instance != self._highest.instance and self._connected:
            return (
                f"{STALE}: another instance of generation {claim.generation} is connected; is "
                "there a copy of its state directory?"
            )
        return ""

    def came(self, claim: Claim) -> None:
        """A supervisor that was not refused is connected; others are to be closed."""
        if claim != self._highest:
            self._highest = claim
            self._connected = 0
        self._connected += 1

    def left(self, claim: Claim | None) -> None:
        """A connection of a supervisor has ended."""
        if claim == self._highest:
            self._connected -= 1

    def is_owner(self, claim: Claim | None) -> bool:
        """Whether that is the supervisor that the worker belongs to."""
        return claim == self._highest


def is_stale(refusal: str) -> bool:
    """Whether a worker said that it belongs to somebody else."""
    return f"{STALE}: " in refusal
