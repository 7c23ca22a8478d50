"""Where the supervisors of this machine are, and by which secret their operators are known.

Each supervisor says in a file of its own directory (`DOOR`) where it listens and what its
operators' secret is. So a directory is enough to reach one. They are found

1. by name, in the files that `amnode up` leaves in the run directory, and in the private
   directories of supervisors that programs started themselves;
2. by the directory, such as a state directory;
3. by an address, with the secret in a file.

A file of a supervisor that has ended is passed over. Nothing but files of this user is read.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from amnode.errors import AmnodeError, ConnectionLost, OptionError, Outcome
from amnode.launch.process import started_at
from amnode.node.operator_args import DOOR, Door, decode_door
from amnode.rpc.tls_files import TlsFiles

#: What an address begins with, as opposed to a name or a directory.
SCHEMES = ("unix:", "tcp:", "tls:")
_RUN_SUFFIX = ".json"


class RunFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `amnode up` leaves in the run directory.

    Attributes:
        name: of the supervisor, and of the file.
        directory: of the supervisor.
        worker: its class, `module:Name`.
        path: where its modules are looked for.
        token_file: the file with the clients' token.
        config: the file of settings.
    """

    name: str
    directory: str
    worker: str
    path: tuple[str, ...]
    token_file: str
    config: str


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """How operators reach one supervisor.

    Attributes:
        address: of its local server.
        secret: the operators'.
        directory: its own, or "" where only the address is known.
        door: what its file says, likewise None.
        run: what `amnode up` says of it; None for one that a program of its own runs.
    """

    address: str
    secret: bytes
    directory: str = ""
    door: Door | None = None
    run: RunFile | None = None

    def __repr__(self) -> str:
        return f"Place({self.address})"

    def tls(self, authority: Path | None) -> TlsFiles | None:
        """What to show and to trust, where the address asks for it.

        Args:
            authority: that somebody names; that of the directory else.
        """
        if authority is not None:
            return TlsFiles(authority=str(authority))
        return self.door.tls if self.door is not None else None

    @property
    def is_program(self) -> bool:
        """Whether its process is `amnode up`, which ends with it."""
        return self.run is not None

    @property
    def shown(self) -> str:
        """What to call it in a message."""
        return self.door.name if self.door is not None else self.address


def run_directory() -> Path:
    """Where run files are: `AMNODE_RUN_DIR`, or what is this user's by custom."""
    named = os.environ.get("AMNODE_RUN_DIR", "")
    if named:
        return Path(named)
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "amnode"
    return Path(tempfile.gettempdir()) / f"amnode-run-{os.getuid()}"


def find(at: str, operator_file: Path | None = None) -> Place:
    """The supervisor that `--at` says; the only one that runs here if it is "".

    Raises:
        ConnectionLost: there is none, or none any more.
        OptionError: it is not clear which, or its secret is not known.
    """
    if at.startswith(SCHEMES):
        return _by_address(at, operator_file)
    if at and (os.sep in at or at in (".", "..")):
        return _by_directory(Path(at))
    running = list(found())
    if at:
        running = [place for place in running if place.shown == at]
    programs = [place for place in running if place.is_program]
    for candidates in (programs, running):  # what nobody named is rather one of `amnode up`
        if len(candidates) == 1:
            return candidates[0]
    if running:
        names = ", ".join(sorted(f"{place.shown} ({place.directory})" for place in running))
        raise OptionError(f"Say which supervisor, with --at: there are {names}.")
    what = f"No supervisor named {at!r} runs" if at else "No supervisor runs"
    raise _nobody(
        f"{what} here as this user. Start one with `amnode up`, or say with --at in which "
        f"directory or at which address it is. (Looked in {run_directory()} and "
        f"{tempfile.gettempdir()}/amnode-*.)"
    )


def found() -> Iterator[Place]:
    """The supervisors of this user that run on this machine, by what their files say."""
    runs = {run.directory: run for run in run_files()}
    directories = [*runs]
    directories += sorted(map(str, Path(tempfile.gettempdir()).glob("amnode-*")))
    for directory in dict.fromkeys(directories):
        path = Path(directory) / DOOR
        try:
            door = decode_door(read_private(path), str(path))
        except (AmnodeError, OSError):
            continue  # another user's, or gone meanwhile, or not of a supervisor
        if _is_running(door):
            yield _place(directory, door, runs.get(directory))


def run_files() -> list[RunFile]:
    """What `amnode up` left, also for those that have ended."""
    runs: list[RunFile] = []
    for path in sorted(run_directory().glob(f"*{_RUN_SUFFIX}")):
        try:
            runs.append(msgspec.json.decode(read_private(path), type=RunFile))
        except (AmnodeError, OSError, msgspec.MsgspecError):
            continue  # as in `found`
    return runs


def run_path(name: str) -> Path:
    """The run file of the supervisor of that name."""
    return run_directory() / f"{name}{_RUN_SUFFIX}"


def make_run_directory() -> Path:
    """The run directory, which is made if it is not there.

    Raises:
        OptionError: it cannot be used; says why.
    """
    path = run_directory()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise OptionError(f"Run directory {path}: {error.strerror}.") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OptionError(f"{path} is not this user's; name another one in AMNODE_RUN_DIR.")
    if found.st_mode & 0o022:
        raise OptionError(f"Others may write into {path}: `chmod go-w {path}`.")
    return path


def read_private(path: Path) -> bytes:
    """A file that only this user may read.

    Raises:
        OptionError: it is open to others, or another user's; says what to do.
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if found.st_uid not in (os.geteuid(), 0) and os.geteuid():
            raise OptionError(f"{path} belongs to another user, who could change it.")
        if found.st_mode & 0o077:
            raise OptionError(
                f"{path} holds a secret and is open to others (mode "
                f"{found.st_mode & 0o777:o}): `chmod go-rwx {path}`."
            )
        return file.read()


def secret_in(path: Path) -> bytes:
    """The secret in a file: that of a `DOOR`, or all of it without the white space around it.

    Raises:
        OptionError: it cannot be read, is open to others, or is empty.
    """
    try:
        data = read_private(path)
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}.") from None
    if data.lstrip().startswith(b"{"):
        return bytes.fromhex(decode_door(data, str(path)).secret)
    if not data.strip():
        raise OptionError(f"{path} is empty; it should hold a token.")
    return data.strip()


def _by_address(address: str, operator_file: Path | None) -> Place:
    if operator_file is not None:
        return Place(address=address, secret=secret_in(operator_file))
    token = os.environ.get("AMNODE_OPERATOR_TOKEN", "")
    if token:
        return Place(address=address, secret=token.encode())
    if address.startswith("unix:"):
        directory = Path(address.removeprefix("unix:")).parent
        if (directory / DOOR).exists():
            place = _by_directory(directory)
            if place.address == address:
                return place
    raise OptionError(
        f"The operators' secret for {address} is not known: name its file with --operator-file "
        "(operators.json of the supervisor's directory), or pass the directory as --at."
    )


def _by_directory(directory: Path) -> Place:
    path = directory / DOOR
    try:
        door = decode_door(read_private(path), str(path))
    except FileNotFoundError:
        raise _nobody(f"No supervisor runs in {directory}: there is no {DOOR} in it.") from None
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}.") from None
    if not _is_running(door):
        raise _nobody(f"The supervisor of {directory} ({door.name}, pid {door.pid}) has ended.")
    full = str(directory.absolute())
    runs = {run.directory: run for run in run_files()}
    return _place(full, door, runs.get(full))


def _place(directory: str, door: Door, run: RunFile | None) -> Place:
    return Place(
        address=door.local_addr,
        secret=bytes.fromhex(door.secret),
        directory=directory,
        door=door,
        run=run,
    )


def _is_running(door: Door) -> bool:
    return started_at(door.pid) == door.pid_start != 0


def _nobody(message: str) -> ConnectionLost:
    return ConnectionLost(message, outcome=Outcome.NOT_RUN)
