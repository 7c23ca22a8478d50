"""`amnode up`: a supervisor in the foreground, as a file of settings has it.

1. SIGTERM and Ctrl-C stop it in order: no new leases, those that there are get `stop_grace`,
   then every process is ended. A second signal ends them at once.
2. SIGHUP reads the file again and gives the pool its size; what else has changed holds at the
   next start, and that is said.
3. The run file is there while the supervisor is, and names it to the other commands.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import secrets
import signal
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from amnode.cli import journal, places
from amnode.cli.exits import Exit
from amnode.cli.notify import Manager
from amnode.cli.places import RunFile
from amnode.cli.settings import DEFAULT, Settings, read_settings, settings_of
from amnode.cli.shared import run_async
from amnode.errors import AmnodeError, OptionError
from amnode.node.outside import REAL
from amnode.node.policy.options import PoolSize
from amnode.node.states import SupervisorStates
from amnode.node.supervisor import Supervisor
from amnode.node.worker import Worker

logger = logging.getLogger("amnode.cli")

S = SupervisorStates


def up(
    what: Annotated[
        str, Parameter(help="The file of settings (TOML), or a worker class as module:Class.")
    ] = DEFAULT,
    /,
    *,
    name: Annotated[
        str, Parameter(help="By which other commands find it; over the file.")
    ] = "",
    size: Annotated[
        str, Parameter(help="MIN, MIN:MAX or MIN:MAX:WARM workers; over the file.")
    ] = "",
    state_dir: Annotated[
        str, Parameter(help="A directory that outlives it; over the file.")
    ] = "",
    check: Annotated[
        bool,
        Parameter(negative="", help="Only check settings and class; starts nothing."),
    ] = False,
) -> int:
    """Runs a supervisor and its pool, in the foreground.

    SIGTERM and Ctrl-C stop it in order, a second one at once; SIGHUP reads the file again for
    the size of the pool. Under systemd, `Type=notify` works.
    """
    settings = _settings(what, name, size, state_dir)
    kind = load_class(settings.worker, settings.path)
    places.make_run_directory()
    _check_free(settings.name)
    if check:
        print(f"{what}: fine. {settings.worker} would run as {settings.name!r}.")
        return Exit.OK
    handler = journal.set_up(settings.log)
    try:
        return run_async(_Service(settings, kind, what).run())
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _settings(what: str, name: str, size: str, state_dir: str) -> Settings:
    if ":" in what and not what.endswith(".toml"):
        settings = settings_of({"worker": what}, Path.cwd())
    else:
        settings = read_settings(Path(what))
    changes: dict[str, object] = {}
    if name:
        changes["name"] = name
    if state_dir:
        changes["state_dir"] = str(Path(state_dir).absolute())
    if size:
        changes["size"] = {**settings.size, **size_of(size)}
    settings = msgspec.structs.replace(settings, **changes)
    settings.checked_options()
    return settings


def size_of(text: str) -> dict[str, int]:
    """MIN, MIN:MAX or MIN:MAX:WARM.

    Raises:
        OptionError: it is something else.
    """
    parts = text.split(":")
    if not 1 <= len(parts) <= 3 or not all(part.isdigit() for part in parts):
        raise OptionError(f"size is {text!r}; it must be MIN, MIN:MAX or MIN:MAX:WARM.")
    found: dict[str, int] = dict(zip(("min", "max", "warm"), map(int, parts), strict=False))
    if len(parts) == 1:
        found |= {"max": max(found["min"], 1), "warm": 0}
    return found


def load_class(worker: str, path: tuple[str, ...]) -> type[Worker]:
    """The worker class that `module:Class` names, with these directories on the path.

    Raises:
        OptionError: there is none, or its module fails; says of what.
    """
    sys.path[:0] = [entry for entry in path if entry not in sys.path]
    module, _, qualname = worker.partition(":")
    try:
        found: object = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise OptionError(
            f"worker {worker}: there is no module {error.name!r} in {', '.join(path)}, nor "
            "where Python looks. `path` says where else to look."
        ) from None
    except Exception as error:
        failed = OptionError(f"worker {worker}: its module fails: {error!r}.")
        failed.add_note(traceback.format_exc().rstrip())
        raise failed from None
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, Worker)):
        what = "is no Worker class" if found is not None else "is not there"
        raise OptionError(f"worker {worker}: {qualname!r} {what} in module {module}.")
    return found


def _check_free(name: str) -> None:
    taken = [place for place in places.found() if place.shown == name]
    if taken and taken[0].door is not None:
        raise OptionError(
            f"A supervisor named {name!r} runs already (pid {taken[0].door.pid}). Stop it with "
            f"`amnode stop --at {name}`, or take another name (--name)."
        )


class _Service:
    """One supervisor, from its start to its end.

    Args:
        settings: what it goes by.
        kind: of its workers.
        what: where the settings are from.
    """

    def __init__(self, settings: Settings, kind: type[Worker], what: str) -> None:
        self._settings = settings
        self._what = what
        self._kind = kind
        self._manager = Manager()
        self._asked: signal.Signals | None = None
        self._stop = asyncio.Event()
        self._main: asyncio.Task[object] | None = None

    async def run(self) -> int:
        """Runs it; returns the exit code."""
        self._main = asyncio.current_task()
        settings, token_file = self._settings, _token_file(self._settings)
        supervisor = Supervisor(
            self._kind,
            name=settings.name,
            token=_token(token_file),
            operator_token=_operator_token(settings),
            public_addr=settings.public_addr,
            local_addr=settings.local_addr,
            opts=settings.checked_options(),
            launcher=settings.launcher,
            state_dir=settings.state_dir,
            peers=settings.peers,
            tls=settings.tls,
            advertise_host=settings.advertise_host,
            allow_plaintext=settings.allow_plaintext,
        )
        with self._signals(supervisor):
            try:
                await supervisor.start()
                with _run_file(settings, supervisor, token_file, self._what):
                    await self._serve(supervisor)
            except asyncio.CancelledError:
                logger.warning("Ended at once, at a second signal.")
                return Exit.FAILED if self._asked == signal.SIGTERM else Exit.INTERRUPTED
            finally:
                await supervisor.dispose()
        logger.info("Stopped.")
        return Exit.INTERRUPTED if self._asked == signal.SIGINT else Exit.OK

    async def _serve(self, supervisor: Supervisor) -> None:
        logger.info(
            "Supervisor %s: clients connect at %s, operators at %s.",
            *(supervisor.name, supervisor.address, supervisor.local_addr),
        )
        telling = asyncio.create_task(self._tell(supervisor))
        beating = asyncio.create_task(self._beat())
        stopped = supervisor.machine.when_not1(S.Start)
        asked = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((stopped, asked), return_when=asyncio.FIRST_COMPLETED)
            self._manager.stopping()
            why = self._asked.name if self._asked is not None else "an operator asked for it"
            leased = supervisor.view().counts.leased
            logger.info(
                "Stopping (%s); %d leased workers have %g s.",
                *(why, leased, supervisor.opts.stop_grace),
            )
            await supervisor.stop()
        finally:
            for task in (telling, beating, asked):
                task.cancel()
            await asyncio.gather(telling, beating, asked, return_exceptions=True)

    async def _tell(self, supervisor: Supervisor) -> None:
        """Says when the pool is ready, and when it is not."""
        machine, is_ready = supervisor.machine, False
        while True:
            wanted = machine.when_not1(S.PoolReady) if is_ready else machine.when1(S.PoolReady)
            broken = machine.when1(S.ErrPool)
            try:
                await asyncio.wait((wanted, broken), return_when=asyncio.FIRST_COMPLETED)
            finally:
                wanted.cancel()
                broken.cancel()
            if not machine.is1(S.Start):
                return
            if machine.is1(S.ErrPool):
                self._say(logging.ERROR, f"The pool is held back: {supervisor.view().broken}")
                is_ready = machine.is1(S.PoolReady)
                await machine.when_not1(S.ErrPool)
                continue
            is_ready = machine.is1(S.PoolReady)
            ready = supervisor.view().counts.ready
            if is_ready:
                self._manager.ready()
                self._say(logging.INFO, f"The pool is ready: {ready} workers.")
            else:
                self._say(logging.WARNING, f"The pool is short of workers: {ready} are ready.")

    def _say(self, level: int, text: str) -> None:
        logger.log(level, "%s", text)
        self._manager.status(text)

    async def _beat(self) -> None:
        """Tells a watchdog that the loop goes round."""
        while self._manager.beat:
            self._manager.alive()
            await asyncio.sleep(self._manager.beat)

    # -- signals ---------------------------------------------------------------------------

    @contextmanager
    def _signals(self, supervisor: Supervisor) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_to_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload, supervisor)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _ask_to_stop(self, number: signal.Signals) -> None:
        """Rule 1."""
        if self._stop.is_set() and self._main is not None:
            self._main.cancel()
        self._asked = self._asked or number
        self._stop.set()

    def _reload(self, supervisor: Supervisor) -> None:
        """Rule 2."""
        if not self._what.endswith(".toml"):
            logger.info("SIGHUP: there is no file of settings to be read again.")
            return
        try:
            new = read_settings(Path(self._what))
            bounds = PoolSize(**new.size)
            supervisor.set_pool(bounds.min, bounds.max, bounds.warm, bounds.max_per_client)
        except AmnodeError as error:
            logger.error("SIGHUP: nothing is changed: %s", error)
            return
        old = self._settings
        later = [
            key
            for key in Settings.__struct_fields__
            if key not in ("size", "name") and getattr(new, key) != getattr(old, key)
        ]
        logger.info(
            "SIGHUP: the pool has %d to %d workers, %d warm.%s",
            *(bounds.min, bounds.max, bounds.warm),
            f" At the next start: {', '.join(later)}." if later else "",
        )


# -- files -------------------------------------------------------------------------------------


def _token_file(settings: Settings) -> Path:
    """Where the clients' token is; a supervisor that is started again has the same."""
    if settings.token_file:
        return Path(settings.token_file)
    if settings.state_dir:
        return Path(settings.state_dir) / "token"
    return places.run_directory() / f"{settings.name}.token"


def _token(path: Path) -> bytes:
    if not path.exists():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            REAL.files.write(str(path), secrets.token_hex(32).encode() + b"\n")
        except OSError as error:
            raise OptionError(f"token_file {path}: {error.strerror}.") from None
    return places.secret_in(path)


def _operator_token(settings: Settings) -> bytes:
    return places.secret_in(Path(settings.operator_file)) if settings.operator_file else b""


@contextmanager
def _run_file(
    settings: Settings, supervisor: Supervisor, token_file: Path, what: str
) -> Generator[None, None, None]:
    """Rule 3."""
    path = places.run_path(settings.name)
    run = RunFile(
        name=settings.name,
        directory=supervisor.directory,
        worker=settings.worker,
        path=settings.path,
        token_file=str(token_file),
        config=str(Path(what).absolute()) if what.endswith(".toml") else "",
    )
    try:
        REAL.files.write(str(path), msgspec.json.format(msgspec.json.encode(run)) + b"\n")
    except OSError as error:
        raise OptionError(f"{path} cannot be written: {error.strerror}.") from None
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        ours = not settings.token_file and token_file.is_relative_to(path.parent)
        if ours:  # of no use any more
            with suppress(OSError):
                token_file.unlink()
