"""A pool of SQLite sessions: each client has a connection, and its transaction, to itself.

What SQLite does blocks, so it runs on the thread of a worker. A session that dies in the middle
of a transaction leaves nothing of it in the database, and nobody waits for its locks.

    python examples/sqlite_sessions.py
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from amnode import LeasedWorker, Pool, State, Worker, WorkerError, WorkerStates, job

Value = int | float | str | None

SCHEMA = """CREATE TABLE account (owner TEXT PRIMARY KEY, cents INTEGER CHECK (cents >= 0));
INSERT INTO account VALUES ('ann', 10000), ('bob', 5000);"""


class SessionStates(WorkerStates):
    """What every worker does, and one thing that only these do."""

    InTransaction = State(require=("Leased",))
    "Something was changed, and is not committed. It ends with the lease, which rolls it back."


class NotPossible(Exception):
    """The database refuses; its words are the message."""


class Session(Worker):
    """Holds one connection to a database."""

    schema = SessionStates
    exceptions = (NotPossible,)  # what arrives at the caller as itself

    async def on_start(self) -> None:
        """Once in each process: without a database yet."""
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._door = self.machine.thread_door()  # states, for the thread of the jobs

    @job(thread=True)
    def open(self, path: str) -> None:
        """Which database it is; once a lease."""
        self._database.close()
        self._database = sqlite3.connect(path, check_same_thread=False)

    @job(thread=True)
    def execute(self, sql: str, values: list[Value]) -> list[list[Value]]:
        """Runs one statement; returns its rows."""
        try:
            rows = [list(row) for row in self._database.execute(sql, values)]
        except sqlite3.Error as error:
            raise NotPossible(str(error)) from None
        if self._database.in_transaction:
            self._door.add1(SessionStates.InTransaction)
        return rows

    @job(thread=True)
    def commit(self) -> None:
        """Ends the transaction."""
        self._database.commit()
        self._door.remove1(SessionStates.InTransaction)

    async def on_release(self) -> None:
        """What was not committed is undone, and the file is let go."""
        self._database.close()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)


@asynccontextmanager
async def session(pool: Pool, path: Path) -> AsyncIterator[LeasedWorker]:
    """A session with a database that is open."""
    async with pool.lease() as one:
        await one.call(Session.open, str(path))
        yield one


async def move(one: LeasedWorker, cents: int, giver: str, taker: str) -> None:
    """Moves money; the caller commits."""
    change = "UPDATE account SET cents = cents + ? WHERE owner = ?"
    await one.call(Session.execute, change, [-cents, giver])
    await one.call(Session.execute, change, [cents, taker])


async def show(pool: Pool, path: Path, after: str) -> None:
    """Prints who has how much, as yet another session sees it."""
    async with session(pool, path) as reader:
        rows = await reader.call(Session.execute, "SELECT * FROM account ORDER BY owner", [])
        print(f"{after + ':':36}", ", ".join(f"{owner} has {cents}" for owner, cents in rows))


async def main(path: Path) -> None:
    """Some transactions, and how each of them ends."""
    async with Pool(Session, min=2, warm=1, max=4) as pool:
        await show(pool, path, "At first")

        async with session(pool, path) as one:
            await move(one, 2500, "ann", "bob")
            await show(pool, path, "While it is not committed")
            await one.call(Session.commit)
            await show(pool, path, "When it is")
            try:
                await move(one, 999_999, "ann", "bob")
            except NotPossible as error:
                print("Refused:", error)
        async with session(pool, path) as one:
            await move(one, 1000, "bob", "ann")
        await show(pool, path, "Released without a commit")

        async with session(pool, path) as one:
            await move(one, 1000, "bob", "ann")
            print("In a transaction:", one.machine.is1(SessionStates.InTransaction))
            os.kill((await pool.supervisor.worker(one.id)).pid, signal.SIGKILL)
            try:
                await one.call(Session.commit)
            except WorkerError as error:
                print("Its session was ended by", error.signal)
        await show(pool, path, "Killed in its transaction")


if __name__ == "__main__":
    logging.getLogger("amnode").addHandler(logging.NullHandler())  # the example says it
    with tempfile.TemporaryDirectory() as directory:
        database = Path(directory, "accounts.db")
        with sqlite3.connect(database) as setup:
            setup.executescript(SCHEMA)
        setup.close()
        asyncio.run(main(database))
