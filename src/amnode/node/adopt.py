"""Home: the directory of one supervisor, and what it leaves there for the next one.

Without a state directory that is a private one, which goes with its supervisor, or with the
last worker that outlives it. With one, each worker has a record in it from before its process
starts, so that a supervisor that is started again finds those that live.

1. The record of a worker is written before there is a process, and goes when there is none.
2. What is found is only looked for here; that it is the worker, it proves itself.
"""

from __future__ import annotations

from pathlib import Path

from amnode.errors import PoolError
from amnode.node.launching import SERVER_OUTPUT
from amnode.node.operator_args import DOOR, Door, encode_door
from amnode.node.outside import Files, State
from amnode.node.policy.adopt_records import WorkerRecord
from amnode.node.policy.owner import Claim


class Home:
    """The directory of a supervisor.

    Args:
        state_dir: where records are kept; "" for a directory that goes with the supervisor.
        instance: of the supervisor, fresh at each start.
        files: where private directories are.

    Attributes:
        path: of the directory, for sockets and output too.
        claim: by which workers tell their supervisor from another.

    Raises:
        StateDirectoryError: the state directory cannot be used.
    """

    def __init__(self, state_dir: str, instance: str, files: Files) -> None:
        self._files = files
        self._state: State | None = None
        self._lock: int | None = None
        self._is_closed = False
        if state_dir:
            self._state = files.open_state(state_dir)
            path, generation = self._state.path, self._state.generation
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
