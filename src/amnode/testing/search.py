"""Search: every interleaving of a small pool, breadth first, over the functions of a lease.

Two supervisors, of which each takes both workers for its own, as after a copied directory; two
workers; two clients, one at each supervisor. A message may be lost, doubled, or late for any
time; a worker or a client may die at any step; every timer may ring whenever it is set.

    state  ->  each thing that can happen next  ->  states not seen before  ->  ...

1. What a side does is decided by `policy.lease` alone; here stands only who sends what to whom.
2. Messages of one connection keep their order. Those between a supervisor and a worker are
   lost only together, with their connection, and come once, as a session makes sure (promise
   S5); any other may be lost or come twice by itself.
3. States that differ only in which worker is which, or in which supervisor with its client is
   which, are one.
4. After each step S1 to S4 and S8 have to hold; the first that does not ends the search, with
   the steps that led to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import msgspec

from amnode.errors import PromiseBroken
from amnode.node.args import WorkerInfo
from amnode.node.policy.lease import Answer, End, Held, Phase, Stage, Told, WorkerLease
from amnode.node.policy.options import LeaseTerms
from amnode.node.policy.waitlist import Waiter

#: Messages of one connection under way; nobody sends more than that at a time.
_CHANNEL: Final = 3
#: A time at which every timer that is set has rung.
_LATE: Final = 1e9
_BOTH: Final = (0, 1)
#: The connections of a supervisor and a worker, in both directions (rule 2).
_SESSIONS: Final = ("sw", "ws")

Message: TypeAlias = tuple[Any, ...]
Frozen: TypeAlias = tuple[Any, ...]


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How far a search goes.

    Attributes:
        states: distinct ones, at most.
        requests: that each client makes.
        faults: messages lost or doubled, connections cut, deaths; in one history.
    """

    states: int = 1_000_000
    requests: int = 2
    faults: int = 2


class Found(msgspec.Struct, frozen=True):
    """What a search came to.

    Attributes:
        states: that were seen.
        complete: whether there are no others within the bounds.
        broken: the promise that was broken and how, or "".
        steps: what led to it.
    """

    states: int
    complete: bool
    broken: str
    steps: list[str]


class _Half:
    """One worker, what each side knows of it, and what is under way about it."""

    __slots__ = (
        "alive",
        "channels",
        "lease",
        "opened",
        "secret",
        "session",
        "taking",
        "tick",
        "views",
    )

    def __init__(self, frozen: Frozen) -> None:
        alive, tick, lease, opened, session, views, taking, channels = frozen
        self.alive: bool = alive
        self.tick: int = tick
        self.lease = _thaw_lease(lease)
        self.secret: int = lease[4]
        #: The last epoch that a client opened.
        self.opened: int = opened
        #: The client whose session is open, and its epoch; or None.
        self.session: tuple[int, int] | None = session
        self.views: list[tuple[int, Held | None]] = [
            (known, None if held is None else _thaw_held(held)) for known, held in views
        ]
        #: For each client: the epoch and secret that it is connecting with, the epoch it holds.
        self.taking: list[tuple[int, int, int]] = list(taking)
        self.channels: dict[str, tuple[Message, ...]] = dict(channels)

    def freeze(self) -> Frozen:
        lease = self.lease
        return (
            self.alive,
            self.tick,
            (lease.stage.value, lease.epoch, lease.client_id, lease.taken, self.secret),
            self.opened,
            self.session,
            tuple(
                (tick, None if held is None else _freeze_held(held))
                for tick, held in self.views
            ),
            tuple(self.taking),
            tuple(sorted(item for item in self.channels.items() if item[1])),
        )

    def send(self, channel: str, *message: Any) -> None:
        under_way = self.channels.get(channel, ())
        if len(under_way) < _CHANNEL:
            self.channels[channel] = (*under_way, message)

    def drop(self, *channels: str) -> None:
        for channel in channels:
            self.channels.pop(channel, None)


class _State:
    """Both halves, and what is left to the clients and to chance."""

    __slots__ = ("faults", "halves", "left", "waiting")

    def __init__(self, frozen: Frozen) -> None:
        halves, clients, faults = frozen
        self.halves = [_Half(half) for half in halves]
        self.waiting = [waiting for waiting, _ in clients]
        self.left = [left for _, left in clients]
        self.faults: int = faults

    def freeze(self) -> Frozen:
        """Rule 3."""
        halves = sorted((half.freeze() for half in self.halves), key=repr)
        clients = tuple(zip(self.waiting, self.left, strict=True))
        this = (tuple(halves), clients, self.faults)
        mirrored = sorted((_mirror(half) for half in halves), key=repr)
        other = (tuple(mirrored), clients[::-1], self.faults)
        return min(this, other, key=repr)


Step: TypeAlias = tuple[str, Callable[[_State], None]]


def search(bounds: Bounds | None = None) -> Found:
    """Looks at every state that can be reached, until one breaks a promise or the bound is met.

    Args:
        bounds: how far to go.
    """
    bounds = bounds or Bounds()
    first = _State(_initial(bounds)).freeze()
    seen: dict[Frozen, tuple[Frozen | None, str]] = {first: (None, "the start")}
    line = deque([first])
    while line:
        frozen = line.popleft()
        for name, step in _steps(frozen):
            state = _State(frozen)
            try:
                step(state)
            except PromiseBroken as error:
                steps = [*_history(seen, frozen), name]
                return Found(len(seen), False, str(error), steps)
            after = state.freeze()
            if after not in seen:
                seen[after] = (frozen, name)
                line.append(after)
        if len(seen) >= bounds.states:
            return Found(len(seen), False, "", [])
    return Found(len(seen), True, "", [])


def _history(seen: dict[Frozen, tuple[Frozen | None, str]], last: Frozen) -> list[str]:
    steps: list[str] = []
    at: Frozen | None = last
    while at is not None:
        at, name = seen[at]
        steps.append(name)
    return steps[::-1]


# -- states as data ------------------------------------------------------------------------


def _initial(bounds: Bounds) -> Frozen:
    lease = (Stage.FREE.value, 0, "", False, 0)
    half = (True, 0, lease, 0, None, ((0, None),) * 2, ((0, 0, 0),) * 2, ())
    return ((half, half), ((0, bounds.requests),) * 2, bounds.faults)


def _thaw_lease(frozen: Frozen) -> WorkerLease:
    stage, epoch, client_id, taken, secret = frozen
    lease = WorkerLease()
    if stage == Stage.FREE:
        lease.epoch, lease.taken = epoch, taken
        return lease
    # The way that led there, on the real functions.
    terms = LeaseTerms()
    lease.serve(client_id, _secret(secret), expected_tick=epoch - 1, terms=terms, now=0.0)
    if taken:
        lease.opened(client_id)
    if stage == Stage.CUT:
        lease.connection_lost(0.0)
    if stage == Stage.RELEASING:
        lease.begin_end(End.RELEASED)
    return lease


def _freeze_held(held: Held) -> Frozen:
    waits = held.waiter is not None
    asked = bool(held.client_id)
    whom = held.worker_rpc_id
    return (whom, asked, held.epoch, held.phase.value, held.wanted, held.cut, waits)


def _thaw_held(frozen: Frozen) -> Held:
    whom, asked, epoch, phase, wanted, cut, waits = frozen
    waiter = _waiter(whom) if waits else None
    return Held(whom if asked else "", whom, whom, epoch, Phase(phase), waiter, wanted, cut)


def _waiter(name: str) -> Waiter:
    return Waiter(name, name, "r", name, 0.0, 0)


def _secret(number: int) -> bytes:
    return f"secret {number}".encode()


def _mirror(half: Frozen) -> Frozen:
    """The same half, with the supervisors and the clients changed for each other."""
    (
        alive,
        tick,
        (stage, epoch, client, taken, secret),
        opened,
        session,
        views,
        taking,
        chans,
    ) = half
    swapped = {"0": "1", "1": "0", "": ""}
    return (
        alive,
        tick,
        (stage, epoch, swapped[client], taken, secret),
        opened,
        None if session is None else (1 - session[0], session[1]),
        tuple((t, None if h is None else (swapped[h[0]], *h[1:])) for t, h in views[::-1]),
        taking[::-1],
        tuple(
            sorted(
                (name[:-1] + swapped[name[-1]], tuple(_mirror_message(m) for m in messages))
                for name, messages in chans
            )
        ),
    )


def _mirror_message(message: Message) -> Message:
    swapped = {"0": "1", "1": "0", "": ""}
    if message[0] in ("serve", "info"):
        return (message[0], swapped[message[1]], *message[2:])
    return message


# -- what can happen next ------------------------------------------------------------------


def _steps(frozen: Frozen) -> Iterator[Step]:
    halves, clients, faults = frozen
    for client, (waiting, left) in enumerate(clients):
        if left and not waiting:
            yield f"client {client} asks", _bind(_ask, client)
    for w, half in enumerate(halves):
        for client in _BOTH:
            held = half[5][client][1]
            if held is not None and held[1] and held[3] == Phase.ASKED and held[4]:
                yield f"client {client} gives up", _bind(_give_up, w, client)
            if clients[client][0] and held is None:
                yield f"supervisor {client} asks worker {w}", _bind(_serve, w, client)
        for channel, _ in half[7]:
            yield f"{channel} of worker {w} arrives", _bind(_deliver, w, channel, False)
            if faults and channel[:2] not in _SESSIONS:
                yield f"{channel} of worker {w} is lost", _bind(_lose, w, channel)
                yield f"{channel} of worker {w} comes twice", _bind(_deliver, w, channel, True)
        yield from _steps_of_worker(w, half, faults)
        yield from _steps_of_clients(w, half, faults)


def _steps_of_worker(w: int, half: Frozen, faults: int) -> Iterator[Step]:
    if not half[0]:
        return
    stage = half[2][0]
    if stage in (Stage.OFFERED, Stage.CUT):
        yield f"the timer of worker {w} rings", _bind(_ring, w)
    if stage == Stage.RELEASING:
        yield f"worker {w} has ended its lease", _bind(_finish, w)
    if faults:
        yield f"worker {w} dies", _bind(_die, w)
        for s in _BOTH:
            yield f"supervisor {s} loses worker {w}", _bind(_cut, w, s)


def _steps_of_clients(w: int, half: Frozen, faults: int) -> Iterator[Step]:
    for client, (epoch, _, held) in enumerate(half[6]):
        if epoch:
            yield f"client {client} gives worker {w} back", _bind(_decline, w, client)
        if held:
            yield f"client {client} works on worker {w}", _bind(_work, w, client)
            yield f"client {client} releases worker {w}", _bind(_release, w, client)
            if faults:
                yield f"client {client} loses worker {w}", _bind(_part, w, client)


def _bind(step: Callable[..., None], *args: Any) -> Callable[[_State], None]:
    return lambda state: step(state, *args)


def _require(holds: object, promise: str, text: str) -> None:
    if not holds:
        raise PromiseBroken(f"{promise}: {text}", promise=promise)


# -- supervisors ---------------------------------------------------------------------------


def _ask(state: _State, client: int) -> None:
    state.left[client] -= 1
    state.waiting[client] = 1


def _serve(state: _State, w: int, s: int) -> None:
    half = state.halves[w]
    tick, _ = half.views[s]
    held = Held.ask(_waiter(str(s)), tick)
    state.waiting[s] = 0
    half.views[s] = (tick, held)
    half.send(f"sw{s}", "serve", str(s), tick, 10 * held.epoch + s)


def _give_up(state: _State, w: int, s: int) -> None:
    """The client takes back a request that the worker is being asked to serve."""
    _, held = state.halves[w].views[s]
    assert held is not None, "The step is offered only then."
    held.wanted = False


def _put_back(state: _State, held: Held) -> None:
    if held.waiter is not None and held.phase is Phase.ASKED:
        state.waiting[int(held.client_id)] = 1 if held.wanted else 0
        held.waiter = None


def _free(half: _Half, s: int, tick: int) -> None:
    """S8: the supervisor takes the worker to be free."""
    _, held = half.views[s]
    half.views[s] = (tick, None)
    serves = half.alive and half.lease.stage is not Stage.FREE
    wrong = held is not None and serves and held.is_about(half.lease.epoch)
    mine = held is not None and half.lease.client_id == held.worker_rpc_id
    _require(not (wrong and mine), "S8", f"supervisor {s} takes a worker to be free.")


def _answered(state: _State, w: int, s: int, epoch: int, accepted: bool | None) -> None:
    half = state.halves[w]
    tick, held = half.views[s]
    if held is None or not held.is_about(epoch):
        return
    if not accepted:
        _put_back(state, held)
    answer = held.answered(accepted)
    if answer in (Answer.GRANT, Answer.WITHDRAW):
        half.views[s] = (max(tick, epoch), held)
    if answer is Answer.GRANT:
        half.send(f"sc{s}", "grant", epoch, 10 * epoch + s)
    elif answer is Answer.WITHDRAW:
        half.send(f"sw{s}", "withdraw", epoch)
    elif answer is Answer.PUT_BACK:
        _free(half, s, tick)


def _informed(state: _State, w: int, s: int, client: str, tick: int, taken: bool) -> None:
    half = state.halves[w]
    _, held = half.views[s]
    info = WorkerInfo(
        worker_id="w",
        kind="k",
        schema_hash="h",
        leased_tick=tick,
        client_id=client,
        taken=taken,
    )
    told = held.told(info) if held is not None else Told.OTHER
    half.views[s] = (tick, held)
    if told is Told.CROSSED:
        return
    if told is Told.SAME and held is not None:
        if held.phase is Phase.TAKEN:
            held.waiter = None
        elif held.to_withdraw:
            half.send(f"sw{s}", "withdraw", held.epoch)
        return
    if held is not None:
        _put_back(state, held)
    if client:
        heard = Held.heard(info, client)
        half.views[s] = (tick, heard)
        if heard.to_withdraw:
            half.send(f"sw{s}", "withdraw", heard.epoch)
    elif held is not None:
        _free(half, s, tick)


def _returned(state: _State, w: int, s: int, epoch: int) -> None:
    half = state.halves[w]
    _, held = half.views[s]
    if held is None or not held.is_about(epoch):
        return
    held.wanted = False
    held.waiter = None
    if held.phase is Phase.GRANTED:
        half.send(f"sw{s}", "withdraw", epoch)


def _cut(state: _State, w: int, s: int) -> None:
    """The connection breaks and is made again: the worker tells about itself first."""
    state.faults -= 1
    half = state.halves[w]
    half.drop(f"sw{s}", f"ws{s}")
    _, held = half.views[s]
    if held is not None:
        _put_back(state, held)
        held.answered(None)
        held.cut = True
    _tell(half, s)


# -- workers -------------------------------------------------------------------------------


def _tell(half: _Half, *supervisors: int) -> None:
    lease = half.lease
    for s in supervisors or _BOTH:
        half.send(f"ws{s}", "info", lease.client_id, half.tick, lease.taken)


def _served(state: _State, w: int, s: int, client: str, tick: int, secret: int) -> None:
    half = state.halves[w]
    lease = half.lease
    why = lease.refusal_to_serve(client, _secret(secret), tick, half.tick)
    if why:
        half.send(f"ws{s}", "answer", tick + 1, False)
        return
    before = lease.epoch
    lease.serve(client, _secret(secret), expected_tick=tick, terms=LeaseTerms(), now=0.0)
    half.secret = secret
    half.tick += 1
    _require(lease.epoch > before, "S3", f"epoch {lease.epoch} follows {before}.")
    _require(lease.epoch == half.tick, "S3", f"epoch {lease.epoch} at tick {half.tick}.")
    _require(half.session is None, "S1", f"{half.session} is open, and {client} is served.")
    half.send(f"ws{s}", "answer", lease.epoch, True)
    _tell(half)


def _withdrawn(state: _State, w: int, s: int, epoch: int) -> None:
    half = state.halves[w]
    if not half.lease.refusal_to_end(epoch, withdraw=True):
        half.lease.begin_end(End.WITHDRAWN)


def _hello(state: _State, w: int, client: int, epoch: int, secret: int) -> None:
    """The proof of a client: of the secret that it was given."""
    half = state.halves[w]
    name = str(client)
    fits = half.lease.secret_for(name) == _secret(secret)
    if not fits or not half.lease.opened(name):
        half.send(f"wc{client}", "opened", epoch, False)
        return
    _require(half.session is None, "S1", f"{half.session} and {name} are open.")
    _require(half.lease.epoch > half.opened, "S4", f"epoch {half.lease.epoch} opens twice.")
    half.opened = half.lease.epoch
    half.session = (client, half.lease.epoch)
    half.send(f"wc{client}", "opened", epoch, True)
    _tell(half)


def _worked(state: _State, w: int, client: int, epoch: int) -> None:
    """S2: what runs is asked for by the holder, in the epoch that holds."""
    half = state.halves[w]
    if half.session is None or half.session[0] != client:
        return  # it came on a session that is closed
    if half.lease.allows(epoch):
        now = half.lease
        _require(epoch == now.epoch == half.tick, "S2", f"a job of {epoch} in {half.tick}.")
        _require(str(client) == now.client_id, "S2", f"a job of {client}, not of the holder.")


def _released(state: _State, w: int, client: int, epoch: int) -> None:
    half = state.halves[w]
    of_session = half.session is not None and half.session[0] == client
    if of_session and not half.lease.refusal_to_end(epoch, withdraw=False):
        half.lease.begin_end(End.RELEASED)


def _ring(state: _State, w: int) -> None:
    state.halves[w].lease.due(_LATE)


def _finish(state: _State, w: int) -> None:
    half = state.halves[w]
    if half.session is not None:
        _unhold(half, half.session[0])
        half.session = None
    half.lease.ended()
    half.tick += 1
    _tell(half)


def _die(state: _State, w: int) -> None:
    """Both supervisors see the exit: the requests that it was asked for wait again."""
    state.faults -= 1
    half = state.halves[w]
    half.alive, half.session = False, None
    half.channels.clear()
    for s in _BOTH:
        tick, held = half.views[s]
        if held is not None:
            _put_back(state, held)
        half.views[s] = (tick, None)
        _unhold(half, s)
    half.lease = WorkerLease()
    for s in _BOTH:  # nobody asks it again: what it is to them is "gone"
        half.views[s] = (0, _thaw_held(("", False, 0, Phase.TAKEN.value, False, False, False)))


# -- clients -------------------------------------------------------------------------------


def _granted(state: _State, w: int, client: int, epoch: int, secret: int) -> None:
    half = state.halves[w]
    connecting, _, held = half.taking[client]
    if connecting or held:
        half.send(f"cs{client}", "returned", epoch)
        return
    half.taking[client] = (epoch, secret, 0)
    half.send(f"cw{client}", "hello", epoch, secret)


def _opened(state: _State, w: int, client: int, epoch: int, well: bool) -> None:
    half = state.halves[w]
    connecting, _, _ = half.taking[client]
    if connecting != epoch:
        return
    half.taking[client] = (0, 0, epoch if well else 0)
    if not well:
        half.send(f"cs{client}", "returned", epoch)


def _decline(state: _State, w: int, client: int) -> None:
    half = state.halves[w]
    epoch, _, _ = half.taking[client]
    half.taking[client] = (0, 0, 0)
    half.send(f"cs{client}", "returned", epoch)
    _leave(half, client)


def _work(state: _State, w: int, client: int) -> None:
    half = state.halves[w]
    half.send(f"cw{client}", "work", half.taking[client][2])


def _release(state: _State, w: int, client: int) -> None:
    half = state.halves[w]
    half.send(f"cw{client}", "release", half.taking[client][2])


def _part(state: _State, w: int, client: int) -> None:
    state.faults -= 1
    half = state.halves[w]
    half.drop(f"cw{client}", f"wc{client}")
    _unhold(half, client)
    _leave(half, client)


def _leave(half: _Half, client: int) -> None:
    """The session of a client is gone; what it sent before may still arrive."""
    if half.session is not None and half.session[0] == client:
        half.session = None
        half.lease.connection_lost(0.0)


def _unhold(half: _Half, client: int) -> None:
    half.taking[client] = (0, 0, 0)


# -- messages ------------------------------------------------------------------------------


def _lose(state: _State, w: int, channel: str) -> None:
    state.faults -= 1
    half = state.halves[w]
    half.channels[channel] = half.channels[channel][1:]


def _deliver(state: _State, w: int, channel: str, again: bool) -> None:
    half = state.halves[w]
    message, *rest = half.channels[channel]
    if again:
        state.faults -= 1
    else:
        half.channels[channel] = tuple(rest)
    kind, *fields = message
    _RECEIVERS[kind](state, w, int(channel[-1]), *fields)


_RECEIVERS: Final[dict[str, Callable[..., None]]] = {
    "serve": _served,
    "withdraw": _withdrawn,
    "answer": _answered,
    "info": _informed,
    "grant": _granted,
    "returned": _returned,
    "hello": _hello,
    "opened": _opened,
    "work": _worked,
    "release": _released,
}
