"""Home: the directory of one supervisor, and what it leaves there for the next one.

Without a state directory that is a private one, which goes with its supervisor, or with the
last worker that outlives it. With one, each worker has a record in it from before its process
starts, so that a supervisor that is started again finds those that live.

1. The record of a worker is written before there is a process, and goes when there is none.
2. What is found is only looked for here; that it is the worker, it proves itself.
"""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path

from amnode.errors import PoolError
from amnode.node.launching import SERVER_OUTPUT
from amnode.node.operator_args import DOOR, Door, encode_door
from amnode.node.outside import Files, State
from amnode.node.policy.adopt_records import WorkerRecord
from amnode.node.policy.crashes import MOST_BYTES as CRASH_BYTES
from amnode.node.policy.crashes import (
    CrashRecord,
    crash_file,
    decode_crash,
    encode_crash,
    is_crash_file,
)
from amnode.node.policy.owner import Claim

logger = logging.getLogger("amnode.node")

#: After the name of a worker that is no more; who finds the directory abandoned takes ".log"
#: for the output of one that lives.
_OLD = ".old"


class Home:
    """The directory of a supervisor.

    Args:
        state_dir: where records are kept; "" for a directory that goes with the supervisor.
        instance: of the supervisor, fresh at each start.
        files: where private directories are.
        outputs_kept: the output of so many workers is kept after their end.

    Attributes:
        path: of the directory, for sockets and output too.
        claim: by which workers tell their supervisor from another.

    Raises:
        StateDirectoryError: the state directory cannot be used.
    """

    def __init__(
        self, state_dir: str, instance: str, files: Files, *, outputs_kept: int = 0
    ) -> None:
        self._files = files
        self._outputs_kept = outputs_kept
        self._outputs: deque[str] = deque()
        self._state: State | None = None
        self._lock: int | None = None
        self._is_closed = False
        if state_dir:
            self._state = files.open_state(state_dir)
            path, generation = self._state.path, self._state.generation
            self._outputs += self._state.oldest_first(_OLD)
        else:
            path, self._lock = files.create()
            generation = 1
        self.path = Path(path)
        self.claim = Claim(generation, instance)

    @property
    def is_kept(self) -> bool:
        """Whether it outlives its supervisor."""
        return self._state is not None

    def found(self) -> list[WorkerRecord]:
        """The workers of before that can be looked for; the others had no supervisor, and end.

        Raises:
            StateDirectoryError: a file is no record.
        """
        if self._state is None:
            return []
        records = self._state.records()
        for record in records:
            if not record.can_be_found:
                self._state.forget(record.worker_id)
        return [record for record in records if record.can_be_found]

    def note(self, record: WorkerRecord) -> None:
        """Keeps what is known of a worker (rule 1).

        Raises:
            StateDirectoryError: it cannot be written.
        """
        if self._state is not None:
            self._state.write(record)

    def forget(self, worker_id: str) -> None:
        """The worker is no more, or not ours."""
        if self._state is not None:
            self._state.forget(worker_id)

    # -- what is kept of those that are gone -------------------------------------------------

    def keep_output(self, name: str) -> None:
        """The worker is no more: what it wrote is kept for a while."""
        path = str(self.path / name)
        self._files.rename(f"{path}.log", f"{path}{_OLD}")
        self._outputs.append(name)
        while len(self._outputs) > self._outputs_kept:
            self._files.remove_file(str(self.path / f"{self._outputs.popleft()}{_OLD}"))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of workers that are no more, whose output is kept; the oldest first."""
        return tuple(self._outputs)

    def output_of(self, name: str) -> Path:
        """The file that a worker writes to, or wrote to."""
        live = self.path / f"{name}.log"
        return live if live.exists() else self.path / f"{name}{_OLD}"

    def keep_crash(self, record: CrashRecord) -> None:
        """Keeps a report, where there is a state directory.

        Raises:
            StateDirectoryError: it cannot be written.
        """
        if self._state is not None:
            self._state.keep(crash_file(record.number), encode_crash(record))

    def drop_crash(self, record: CrashRecord) -> None:
        """The report is kept no longer."""
        if self._state is not None:
            self._state.drop(crash_file(record.number))

    def crashes(self) -> list[CrashRecord]:
        """The reports of before, oldest first; what is no report is left out."""
        if self._state is None:
            return []
        found: list[CrashRecord] = []
        for name, data in self._state.kept(is_crash_file, CRASH_BYTES):
            record = decode_crash(data)
            if record is None:
                logger.warning("%s/%s is no report of a crash.", self._state.path, name)
            else:
                found.append(record)
        return found

    # -- its own end -------------------------------------------------------------------------

    def show(self, door: Door) -> None:
        """Says in it where operators find the supervisor, until it is closed.

        Raises:
            PoolError: that cannot be written.
        """
        path = str(self.path / DOOR)
        try:
            self._files.write(path, encode_door(door))
        except OSError as error:
            raise PoolError(f"{path} cannot be written: {error.strerror}.") from None

    def close(self) -> None:
        """Lets go of a state directory; removes any other. Again, it changes nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._files.remove_file(str(self.path / DOOR))
        if self._state is not None:
            self._files.remove_file(str(self.path / SERVER_OUTPUT))
            self._state.close()
        elif self._lock is not None:
            self._files.remove(str(self.path), self._lock)
