"""Who waits for a worker: one fair queue, with a quota and a deadline.

1. Of the requests whose client may have another worker, the oldest goes first (promise S10).
   One whose client may not keeps its place and holds up nobody.
2. A request that is put back returns to its old place.
3. A key (client, request) waits at most once.
4. `eligible` is the number of waiting requests that their clients' quotas allow together;
   `guests` of those that peer supervisors passed on.

Taking and adding cost O(log n), whatever the number of clients or of requests.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

import msgspec

from amnode.node.policy.deadlines import Deadlines

_SLACK = 16  # places of removed requests that may lie in a line before it is rebuilt


class Waiter(msgspec.Struct, frozen=True):
    """A request for a worker.

    Attributes:
        client_id: who asks, by its supervisor connection.
        name: the client's name, by which the quota counts.
        request_id: the client's own number of it.
        worker_rpc_id: by which the client introduces itself to its worker.
        deadline: when it gives up.
        place: its rank; smaller is earlier.
        guest: it was passed on by a peer supervisor.
        since: when it came.
    """

    client_id: str
    name: str
    request_id: str
    worker_rpc_id: str
    deadline: float
    place: int = -1
    guest: bool = False
    since: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """What identifies it."""
        return self.client_id, self.request_id


class _Line(msgspec.Struct):
    """The requests of one name, by place."""

    places: list[int] = msgspec.field(
        default_factory=list[int]
    )  # a heap; may hold removed ones
    length: int = 0
    eligible: int = 0


class Waitlist:
    """The queue.

    Args:
        room: how many more workers a client of that name may have. When it changes for a
            name, `refresh` must be called.
    """

    def __init__(self, room: Callable[[str], int]) -> None:
        self._room = room
        self._by_client: dict[str, dict[str, Waiter]] = {}
        self._by_place: dict[int, Waiter] = {}
        self._lines: dict[str, _Line] = {}
        self._heads: list[tuple[int, str]] = []  # a heap; may hold outdated ones
        self._deadlines: Deadlines[int] = Deadlines()
        self._next_place = 0
        self.eligible = 0
        self.guests = 0

    def __len__(self) -> int:
        return len(self._by_place)

    def __iter__(self) -> Iterator[Waiter]:
        """All that wait, in no particular order."""
        return iter(list(self._by_place.values()))

    def length(self, name: str) -> int:
        """How many requests of that name wait."""
        line = self._lines.get(name)
        return line.length if line is not None else 0

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key[1] in self._by_client.get(key[0], {})

    def add(
        self,
        client_id: str,
        name: str,
        request_id: str,
        worker_rpc_id: str,
        deadline: float,
        *,
        guest: bool = False,
        since: float = 0.0,
    ) -> bool:
        """Queue a request; False when it waits already (invariant 3)."""
        if (client_id, request_id) in self:
            return False
        place = self._next_place
        waiter = Waiter(
            client_id, name, request_id, worker_rpc_id, deadline, place, guest, since
        )
        self._next_place += 1
        self._insert(waiter)
        return True

    def put_back(self, waiter: Waiter) -> None:
        """Queue a request that was taken, in its old place (invariant 2)."""
        if waiter.key not in self:
            self._insert(waiter)

    def take(self) -> Waiter | None:
        """Remove and return the oldest request that may be served (invariant 1)."""
        while self._heads:
            place, name = self._heads[0]
            if place == self._head(name) and self._lines[name].eligible:
                heapq.heappop(self._heads)
                waiter = self._by_place[place]
                self._delete(waiter)
                return waiter
            heapq.heappop(self._heads)
        return None

    def remove(self, client_id: str, request_id: str) -> Waiter | None:
        """Take a request out, wherever it stands; None when it does not wait."""
        waiter = self._by_client.get(client_id, {}).get(request_id)
        if waiter is not None:
            self._delete(waiter)
        return waiter

    def remove_client(self, client_id: str) -> list[Waiter]:
        """Take out all requests of one client."""
        waiters = list(self._by_client.get(client_id, {}).values())
        for waiter in waiters:
            self._delete(waiter)
        return waiters

    def clear(self) -> list[Waiter]:
        """Take out all requests, oldest first."""
        waiters = [self._by_place[place] for place in sorted(self._by_place)]
        for waiter in waiters:
            self._delete(waiter)
        return waiters

    def expire(self, now: float) -> list[Waiter]:
        """Take out the requests whose deadline has come."""
        expired: list[Waiter] = []
        while (place := self._deadlines.pop(now)) is not None:
            waiter = self._by_place[place]
            self._delete(waiter)
            expired.append(waiter)
        return expired

    def next_deadline(self) -> float | None:
        """When the next request gives up, or None."""
        return self._deadlines.next()

    def refresh(self, name: str) -> None:
        """The quota left to `name` may have changed."""
        line = self._lines.get(name)
        if line is None:
            return
        eligible = min(line.length, max(0, self._room(name)))
        self.eligible += eligible - line.eligible
        line.eligible = eligible
        head = self._head(name)
        if head is None:
            del self._lines[name]
        elif eligible:
            heapq.heappush(self._heads, (head, name))
            self._compact_heads()

    def refresh_all(self) -> None:
        """The quota of everybody may have changed."""
        for name in [*self._lines]:
            self.refresh(name)

    def check(self) -> None:
        """Raise AssertionError unless the invariants hold."""
        names = [w.name for w in self._by_place.values()]
        for name, line in self._lines.items():
            assert line.length == names.count(name), f"The line of {name} has a wrong length."
            allowed = min(line.length, max(0, self._room(name)))
            assert line.eligible == allowed, f"The eligible of {name} are outdated (S10)."
            if allowed:
                assert (self._head(name), name) in self._heads, f"{name} is overlooked (S10)."
        total = sum(line.eligible for line in self._lines.values())
        assert self.eligible == total, "The number of eligible requests is wrong."
        assert len(self._deadlines) <= len(self._by_place), "A deadline has no request."

    # -- places ----------------------------------------------------------------------------

    def _insert(self, waiter: Waiter) -> None:
        self._by_client.setdefault(waiter.client_id, {})[waiter.request_id] = waiter
        self._by_place[waiter.place] = waiter
        self._deadlines.set(waiter.place, waiter.deadline)
        self.guests += waiter.guest
        line = self._lines.setdefault(waiter.name, _Line())
        heapq.heappush(line.places, waiter.place)
        line.length += 1
        self.refresh(waiter.name)

    def _delete(self, waiter: Waiter) -> None:
        of_client = self._by_client[waiter.client_id]
        del of_client[waiter.request_id]
        if not of_client:
            del self._by_client[waiter.client_id]
        del self._by_place[waiter.place]
        self._deadlines.clear(waiter.place)
        self.guests -= waiter.guest
        line = self._lines[waiter.name]
        line.length -= 1
        if len(line.places) > 2 * line.length + _SLACK:
            line.places = sorted(p for p in dict.fromkeys(line.places) if p in self._by_place)
        self.refresh(waiter.name)

    def _head(self, name: str) -> int | None:
        """The first place of a line that still waits."""
        line = self._lines.get(name)
        while line and line.places:
            if line.places[0] in self._by_place:
                return line.places[0]
            heapq.heappop(line.places)
        return None

    def _compact_heads(self) -> None:
        if len(self._heads) <= 2 * len(self._lines) + _SLACK:
            return
        heads = [
            (self._head(name), name) for name, line in self._lines.items() if line.eligible
        ]
        self._heads = sorted((place, name) for place, name in heads if place is not None)
