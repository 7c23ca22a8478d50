"""Dispatcher: begins the calls of jobs one after the other, in the order in which they came.

Clients send calls ahead of their turn; they are held here until the worker is free. Rules:

1. A call begins when the one before is over and the machine is Idle or WorkReady: through
   WorkRequested and Working, in the turn in which it could.
2. It begins only while its client is connected, and only when all that was said to the client
   has been handed to the system, so that the first call without an answer is the only one that
   can have begun when the process dies. Jobs that may run twice need not wait for that: up to
   `TURN` of them begin in one turn, and their answers leave as one.
3. One that is taken back, or whose client is gone, before it began never begins.
4. After the last call the worker stays WorkReady for `LINGER`, so that a client who calls again
   at once finds it so; then it rests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from amnode.errors import AmnodeError, RefusedError
from amnode.machine.machine import Machine
from amnode.machine.queue import CANCELED
from amnode.node.args import WorkArgs
from amnode.node.jobs import Job
from amnode.node.runner import Runner
from amnode.node.states import WorkerStates
from amnode.node.work import Work
from amnode.rpc.origin import Deferred, Origin
from amnode.rpc.server import RpcServer

#: Calls that begin in one turn of the loop, at most; then others have theirs.
TURN = 16
#: Seconds that a worker stays WorkReady.
LINGER = 0.005
#: Seconds until a client that does not take what it was told is looked at again (rule 2).
_SLOW = 0.001

S = WorkerStates
# Looked up once: each call asks for them several times.
_IDLE, _REQUESTED, _WORKING, _READY = S.Idle, S.WorkRequested, S.Working, S.WorkReady


class _Held:
    """A call that came."""

    __slots__ = ("args", "job", "origin", "reply")

    def __init__(
        self, job: Job[..., Any], args: WorkArgs, origin: Origin, reply: Deferred
    ) -> None:
        self.job = job
        self.args = args
        self.origin = origin
        self.reply = reply


class Dispatcher:
    """Runs the calls of one worker.

    Args:
        machine: of the worker.
        job_of: the job that a call wants; raises if there is none, or it is not to begin.
        work_of: the call, ready to run; raises if its arguments do not fit.

    Attributes:
        work: the call that runs, or None.
        beginning: whether it is this that asks for WorkRequested now.
    """

    def __init__(
        self,
        machine: Machine,
        job_of: Callable[[WorkArgs], Job[..., Any]],
        work_of: Callable[[Job[..., Any], WorkArgs, Deferred], Work],
    ) -> None:
        self.work: Work | None = None
        self.beginning = False
        self._machine = machine
        self._job_of = job_of
        self._work_of = work_of
        self._held: deque[_Held] = deque()
        self._runner: Runner | None = None
        self._next: asyncio.Handle | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._rest_tick = 0
        self._pressed = False
        self._free = machine.mask_of((_IDLE, _READY))

    def take(self, args: object, origin: Origin) -> bool:
        """A call came; False for the plain form, which is the machine's own (`Taker`)."""
        if not isinstance(args, WorkArgs) or not args.job:
            return False
        reply = origin.take_over()
        try:
            job = self._job_of(args)
        except AmnodeError as error:
            reply.fail(error)
            return True
        if self._held or not self._begin(job, args, origin, reply):
            held = _Held(job, args, origin, reply)
            self._held.append(held)
            reply.on_cancel(lambda: self._dropped(held))
            if self.work is None:
                self.look()
        return True

    def look(self) -> None:
        """Something has changed for who waits: asks in the next turn whether it may begin."""
        if self._held and self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._serve)

    def over(self) -> None:
        """The call that ran is over, and answered."""
        self.work = None
        self.look()

    def ready(self) -> None:
        """The machine is WorkReady (rule 4)."""
        if self._rest is None:
            self._rest_tick = self._machine.tick(_READY)
            loop = asyncio.get_running_loop()
            self._rest = loop.call_later(LINGER, self._maybe_rest)
        if self._held and self.work is None:
            self.look()

    def refuse(self, error: AmnodeError) -> None:
        """None of those that wait will begin."""
        held, self._held = self._held, deque()
        for call in held:
            call.reply.fail(error)

    def rest(self) -> None:
        """Rests at once."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._machine.is1(_READY):
            self._machine.remove1(_READY)

    def prepare(self) -> None:
        """Gets ready to begin calls."""
        if self._runner is None:
            self._runner = Runner(asyncio.get_running_loop())
        self._runner.prepare()

    def close(self) -> None:
        """Begins no more."""
        for timer in (self._next, self._rest):
            if timer is not None:
                timer.cancel()
        self._next = self._rest = None
        self._held.clear()
        if self._runner is not None:
            self._runner.close()

    # -- inside ------------------------------------------------------------------------------

    def _maybe_rest(self) -> None:
        self._rest = None
        if self._machine.is1(_READY):
            if self._machine.tick(_READY) == self._rest_tick and not self._held:
                self._machine.remove1(_READY)
            else:
                self.ready()

    def _dropped(self, held: _Held) -> None:
        """Rule 3."""
        if held in self._held:
            self._held.remove(held)

    def _serve(self) -> None:
        """Begins what may (rule 2)."""
        self._next = None
        for begun in range(TURN):
            if not self._held:
                return
            held = self._held[0]
            if not self._begin(held.job, held.args, held.origin, held.reply):
                if self.work is None and held.origin.connection.is_connected:
                    self._wait_for(held.origin.connection, begun)
                return
            # It may be gone already: what is answered at once cancels nothing.
            self._dropped(held)
        self.look()

    def _wait_for(self, server: RpcServer, begun: int) -> None:
        """Comes back when the client was told (rule 2)."""
        if server.flushed:
            return
        server.hurry()
        loop = asyncio.get_running_loop()
        if begun or not self._pressed:
            self._next = loop.call_soon(self._serve)
        else:
            self._next = loop.call_later(_SLOW, self._serve)
        self._pressed = not begun

    def _begin(
        self, job: Job[..., Any], args: WorkArgs, origin: Origin, reply: Deferred
    ) -> bool:
        """Begins a call, or fails it; False if it has to wait."""
        machine, server = self._machine, origin.connection
        if self.work is not None or not machine.has_active(self._free):
            return False
        if not (server.flushed or (job.idempotent and server.is_connected)):
            return False
        try:
            work = self._work_of(job, args, reply)
        except AmnodeError as error:
            reply.fail(error)
            return True
        self.beginning = True
        try:
            asked = machine.add1(_REQUESTED, args, origin)
        finally:
            self.beginning = False
        if asked is CANCELED:  # by a handler of the worker's author
            origin.ran(CANCELED)
            return True
        self.work = work
        if machine.add1(_WORKING) is CANCELED:
            self.work = None
            reply.fail(RefusedError("Refused: the worker did not begin to work."))
            return True
        self._run(work)
        return True

    def _run(self, work: Work) -> None:
        runner = self._runner
        assert runner is not None  # the worker has started
        going_on = runner.begin(work.run())
        if going_on is not None:
            task, context = going_on
            self._machine.own(_WORKING, task, context)
            work.start(task)
        if runner.spare is None:
            runner.prepare()
