"""The file of settings of `amnode up`: what may stand in it, and what is wrong with one.

    worker = "squares:Squares"      # module:Class; the only key that has to be there
    name = "squares"                # by which the other commands find it
    state_dir = "state"             # workers outlive a supervisor that is started again

    [size]                          # see PoolSize
    min = 2
    max = 10

    [options]                       # see SupervisorOptions
    linger = 30.0

1. A key that is not known, or a value that cannot work, is an error that names the file, the
   key, and what it may be.
2. Paths are taken from the directory of the file, those of Unix sockets too.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

from amnode.errors import OptionError
from amnode.node.policy.options import PoolSize, SupervisorOptions
from amnode.rpc.tls_files import TlsFiles

#: The file that is taken if none is named.
DEFAULT = "amnode.toml"


class LogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[log]`: what the supervisor says of itself, on its standard error or in a file.

    Attributes:
        level: the least that is said.
        format: "text" is a line each; "json" an object each.
        file: where; "" is the standard error.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    file: str = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of a file, checked.

    Attributes:
        worker: the class of the workers, `module:Class`.
        name: of the supervisor; made of the class by default.
        path: where modules are looked for, beside where Python does.
        state_dir: a directory that outlives the supervisor; see `Supervisor`.
        public_addr: where clients connect; a Unix socket of its directory by default.
        local_addr: where operators and peers do; likewise.
        peers: local addresses of supervisors that help out.
        token_file: the clients' token; made if it is not there.
        operator_file: the operators' secret; a fresh one at each start by default.
        tls: what is shown and trusted where an address begins with `tls:`; see `TlsFiles`.
        advertise_host: the host that clients are told, where an address is a wildcard.
        allow_plaintext: listens off loopback without TLS.
        launcher: how workers start; see `Supervisor`.
        size: of the pool.
        options: of the supervisor.
        log: see there.
    """

    worker: str
    name: str = ""
    path: tuple[str, ...] = (".",)
    state_dir: str = ""
    public_addr: str = ""
    local_addr: str = ""
    peers: tuple[str, ...] = ()
    token_file: str = ""
    operator_file: str = ""
    tls: TlsFiles | None = None
    advertise_host: str = ""
    allow_plaintext: bool = False
    launcher: Literal["auto", "command"] = "auto"
    size: dict[str, Any] = {}
    options: dict[str, Any] = {}
    log: LogSettings = LogSettings()

    def checked_options(self) -> SupervisorOptions:
        """The options, with the size.

        Raises:
            OptionError: one that is not known, or cannot work; names it.
        """
        _known("options", self.options, _fields(SupervisorOptions, but="size"))
        _known("size", self.size, _fields(PoolSize))
        with _named("size"):
            size = PoolSize(**self.size)
        with _named("options"):
            return SupervisorOptions(size=size, **self.options)

    @property
    def default_name(self) -> str:
        """The name, or what stands for it."""
        return self.name or self.worker.rpartition(":")[2].rpartition(".")[2].lower()


class _named:
    """Says in an error which table the key is in."""

    def __init__(self, table: str) -> None:
        self._table = table

    def __enter__(self) -> None:
        """Nothing is to be done."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OptionError):
            raise OptionError(f"{self._table}.{error}") from None


def read_settings(path: Path) -> Settings:
    """A file of settings, with its paths made absolute.

    Raises:
        OptionError: it cannot be read, is no TOML, or has a key or value that cannot work;
            names the file and the key.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OptionError(
            f"There is no file {path}. Write one (`amnode new` makes a project with one), or "
            "name the worker class: `amnode up module:Class`."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{path} is no TOML: {error}.") from None
    try:
        return settings_of(data, path.absolute().parent)
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from None


def settings_of(data: dict[str, Any], base: Path) -> Settings:
    """The settings in a table, with their paths taken from `base`.

    Raises:
        OptionError: a key or value that cannot work; names it.
    """
    _known("", data, Settings.__struct_fields__)
    for table, kind in (("log", LogSettings), ("tls", TlsFiles)):
        if isinstance(data.get(table), dict):
            _known(table, data[table], kind.__struct_fields__)
    try:
        settings = msgspec.convert(data, Settings)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        key = place.rstrip("`") or "worker"
        raise OptionError(f"{key}: {message[:1].lower()}{message[1:]}.") from None
    settings.checked_options()
    module, _, name = settings.worker.partition(":")
    if not module or not name:
        raise OptionError(f'worker is {settings.worker!r}; it must be "module:Class".')
    return _from(base, settings)


def _from(base: Path, settings: Settings) -> Settings:
    """Rule 2."""

    def absolute(path: str) -> str:
        return str(base / path) if path else ""

    def address(text: str) -> str:
        scheme, _, path = text.partition(":")
        return f"unix:{base / path}" if scheme == "unix" and path else text

    return msgspec.structs.replace(
        settings,
        name=settings.default_name,
        path=tuple(absolute(entry) for entry in settings.path),
        state_dir=absolute(settings.state_dir),
        public_addr=address(settings.public_addr),
        local_addr=address(settings.local_addr),
        peers=tuple(address(peer) for peer in settings.peers),
        token_file=absolute(settings.token_file),
        operator_file=absolute(settings.operator_file),
        tls=_tls_from(absolute, settings.tls),
        log=msgspec.structs.replace(settings.log, file=absolute(settings.log.file)),
    )


def _tls_from(absolute: Callable[[str], str], tls: TlsFiles | None) -> TlsFiles | None:
    if tls is None:
        return None
    return msgspec.structs.replace(
        tls,
        certificate=absolute(tls.certificate),
        key=absolute(tls.key),
        authority=absolute(tls.authority),
    )


def _fields(kind: type[msgspec.Struct], but: str = "") -> list[str]:
    return [name for name in kind.__struct_fields__ if name != but]


def _known(table: str, data: Iterable[str], known: Iterable[str]) -> None:
    """Rule 1."""
    names = list(known)
    for key in data:
        if key not in names:
            where = f"{table}.{key}" if table else key
            near = difflib.get_close_matches(key, names, n=1)
            guess = f"did you mean {near[0]}?" if near else f"it knows {', '.join(names)}."
            raise OptionError(f"{where} is not known; {guess}")
