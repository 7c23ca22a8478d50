"""`amnode call`: leases a worker, calls one job by name, prints what it returns.

1. An argument is JSON. A bare word, which is none, is text: `amnode call greet ann`.
   `name=value` gives one by name.
2. The class of the workers is imported to know its jobs, so arguments are checked, and named in
   errors, before anything is asked for; what `amnode up` runs is known from its run file.
3. The result is printed as JSON, each item of a stream as soon as it is here; but text as it
   is, and bytes too where they do not go to a terminal. With `--json` all of it is JSON.
4. Progress that the job reports is shown on the standard error, where that is a terminal.
"""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
from cyclopts import Group, Parameter
from rich.console import Console

from amnode.cli import places
from amnode.cli.shared import PLAIN, Authority, Output, run_async
from amnode.cli.show import console, table, write_json
from amnode.cli.up import load_class
from amnode.errors import AmnodeError, AuthError, JobFailed, OptionError
from amnode.node.client import Client
from amnode.node.jobs import Job, StreamJob, jobs_of
from amnode.node.leased import CallOptions
from amnode.node.policy.options import ClientOptions
from amnode.node.progress import Progress
from amnode.node.worker import Worker
from amnode.rpc.tls_files import TlsFiles

#: What begins like this is meant to be JSON, so that a mistake in it is no text.
_JSON_STARTS = '[{"-0123456789'


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to call.

    Attributes:
        address: where clients connect.
        token: that they prove to have.
        worker: the class, `module:Class`.
        path: where its modules are looked for.
        tls: what is shown and trusted at an address that begins with `tls:`.
    """

    address: str
    token: bytes
    worker: str
    path: tuple[str, ...]
    tls: TlsFiles | None

    def __repr__(self) -> str:
        return f"Target({self.address}, {self.worker})"


@Parameter(name="*", group=Group("Where", sort_key=10))
@dataclass(frozen=True, slots=True, kw_only=True)
class Whom:
    """Which supervisor a client asks, and how.

    Attributes:
        at: a name, a directory, or the address where clients connect.
        token_file: the file with the clients' token.
        authority: the certificates of who signs for the supervisor.
        worker: the class of the workers.
    """

    at: Annotated[
        str,
        Parameter(
            env_var="AMNODE_AT",
            show_default=False,
            help="The supervisor: its name, its directory, or the address where clients "
            "connect. By default the only one that runs here.",
        ),
    ] = ""
    token_file: Annotated[
        Path | None,
        Parameter(
            env_var="AMNODE_TOKEN_FILE",
            help="The file with the clients' token. The variable AMNODE_TOKEN may have the "
            "token itself; an option never does.",
        ),
    ] = None
    authority: Authority = None
    worker: Annotated[
        str,
        Parameter(
            env_var="AMNODE_WORKER",
            show_default=False,
            help="The class of the workers, module:Class; by default what `amnode up` runs.",
        ),
    ] = ""


ANYONE = Whom()


def call(
    job: Annotated[str, Parameter(show_default=False, help="Its name.")] = "",
    /,
    *args: Annotated[str, Parameter(help="Its arguments.")],
    deadline: Annotated[
        float | None, Parameter(help="Seconds that the job may take; then it is cancelled.")
    ] = None,
    hard_deadline: Annotated[
        float | None,
        Parameter(help="Seconds after which its worker is ended, whatever it does."),
    ] = None,
    retry: Annotated[
        int, Parameter(help="Other workers to try if one dies, for an idempotent job.")
    ] = 0,
    wait: Annotated[float, Parameter(help="Seconds to wait for a worker.")] = 30.0,
    client: Annotated[str, Parameter(help="The name that quotas count by.")] = "amnode-call",
    whom: Whom = ANYONE,
    output: Output = PLAIN,
) -> None:
    """Leases a worker, calls a job by name, and prints its result.

    An argument is JSON; a bare word is text; `name=value` gives one by name. Without a job,
    the jobs that there are are listed.
    """
    target = _target(whom)
    kind = load_class(target.worker, target.path)
    jobs = jobs_of(kind)
    if not job:
        _list(jobs, output)
        return
    found = _job(jobs, job, kind)
    values, named = arguments(found, args)
    caller = Client(
        client,
        kind,
        addrs=[target.address],
        token=target.token,
        tls=target.tls,
        opts=ClientOptions(request_wait=wait),
    )
    with _shown_progress() as on_progress:
        how = CallOptions(
            deadline=deadline, hard_deadline=hard_deadline, retry=retry, on_progress=on_progress
        )
        run_async(_call(caller, how, (found, values, named), output))


async def _call(
    caller: Client,
    how: CallOptions,
    asked: tuple[Job[..., Any], list[Any], dict[str, Any]],
    output: Output,
) -> None:
    job, values, named = asked
    try:
        async with caller as client, client.lease() as leased:
            calls = leased.options(**msgspec.structs.asdict(how))
            if not isinstance(job, StreamJob):
                _print(await calls.call(job, *values, **named), output)
                return
            async with calls.stream(job, *values, **named) as items:
                async for item in items:
                    _print(item, output)
    except AuthError as error:
        raise AuthError(
            f"The supervisor does not take this token: {error} Pass the file of its own with "
            "--token-file."
        ) from None
    except (AmnodeError, OSError, TimeoutError):
        raise
    except Exception as error:  # of the worker's own, raised here as what it was there
        raise _failed(job, error) from None


def _failed(job: Job[..., Any], error: Exception) -> JobFailed:
    failed = JobFailed(f"Job {job.name} raised {type(error).__name__}: {error}")
    for note in getattr(error, "__notes__", ()):
        failed.add_note(note)
    return failed


def _print(value: object, output: Output) -> None:
    """Rule 3."""
    if isinstance(value, str) and not output.json:
        print(value, flush=True)
    elif isinstance(value, bytes) and not (output.json or sys.stdout.isatty()):
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
    else:
        write_json(value)


@contextmanager
def _shown_progress() -> Generator[Callable[[Progress], None] | None]:
    """Rule 4."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)

        def show(progress: Progress) -> None:
            bar.update(
                task,
                total=progress.total,
                completed=progress.done,
                description=progress.note,
                visible=True,
            )

        yield show


# -- whom, and with what -----------------------------------------------------------------------


def _target(whom: Whom) -> Target:
    path: tuple[str, ...] = (str(Path.cwd()),)
    run: places.RunFile | None = None
    worker = whom.worker
    tls = TlsFiles(authority=str(whom.authority)) if whom.authority is not None else None
    if whom.at.startswith(places.SCHEMES):
        address = whom.at
    else:
        place = places.find(whom.at)
        assert place.door is not None, "It was found by its file."
        address, run, tls = place.door.public_addr, place.run, place.tls(whom.authority)
    if run is not None:
        worker = worker or run.worker
        path = (*run.path, *path)
    if not worker:
        raise OptionError(
            "The class of the workers is not known: name it with --worker module:Class."
        )
    return Target(
        address=address,
        token=_token(whom.token_file, run),
        worker=worker,
        path=path,
        tls=tls,
    )


def _token(token_file: Path | None, run: places.RunFile | None) -> bytes:
    if token_file is not None:
        return places.secret_in(token_file)
    if token := os.environ.get("AMNODE_TOKEN", ""):
        return token.encode()
    if run is not None:
        return places.secret_in(Path(run.token_file))
    raise OptionError(
        "The clients' token is not known: name its file with --token-file, or have it in the "
        "environment as AMNODE_TOKEN."
    )


def _job(jobs: dict[str, Job[..., Any]], name: str, kind: type[Worker]) -> Job[..., Any]:
    if name in jobs:
        return jobs[name]
    near = difflib.get_close_matches(name, jobs, n=1)
    guess = f"did you mean {near[0]}?" if near else f"it has {', '.join(jobs) or 'none'}."
    raise OptionError(f"{kind.__name__} has no job {name!r}; {guess}")


def signature_of(job: Job[..., Any]) -> inspect.Signature:
    """What a job takes, without `self`."""
    signature = inspect.signature(job.function)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def arguments(job: Job[..., Any], words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments that the words are, in the types that the job is annotated with.

    Raises:
        OptionError: a word that fits none; names the argument.
    """
    signature = signature_of(job)
    parameters = signature.parameters
    hints = get_type_hints(job.function, include_extras=True)
    values: list[Any] = []
    named: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if equals and name in parameters:
            named[name] = _value(name, text, hints.get(name, Any))
            continue
        index = len(values)
        name = [*parameters][index] if index < len(parameters) else ""
        values.append(_value(name, word, hints.get(name, Any)))
    try:
        signature.bind(*values, **named)
    except TypeError as error:
        raise OptionError(f"{job.name}{signature}: {error}.") from None
    return values, named


def _value(name: str, text: str, hint: Any) -> Any:
    """Rule 1."""
    try:
        data = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        if text[:1] in _JSON_STARTS and text:
            raise OptionError(
                f"Argument {name} is {text!r}, which is no JSON: {error}."
            ) from None
        data = text
    try:
        return msgspec.convert(data, hint, strict=True, builtin_types=())
    except msgspec.ValidationError as error:
        if isinstance(data, str) or not text:
            raise OptionError(f"Argument {name} is {text!r}: {error}.") from None
        try:  # a bare word that happens to be JSON, such as 12 for a text
            return msgspec.convert(text, hint)
        except msgspec.ValidationError:
            raise OptionError(f"Argument {name} is {text!r}: {error}.") from None


# -- which there are ---------------------------------------------------------------------------


class JobRow(msgspec.Struct, frozen=True):
    """A job, as JSON shows it.

    Attributes:
        name: by which it is called.
        signature: what it takes and returns.
        doc: the first line of its docstring.
    """

    name: str
    signature: str
    doc: str


def _list(jobs: dict[str, Job[..., Any]], output: Output) -> None:
    rows = [
        JobRow(name, str(signature_of(job)).replace("'", ""), _first_line(job.function))
        for name, job in jobs.items()
    ]
    if output.json:
        write_json(rows)
        return
    shown = ((f"{row.name}{row.signature}", row.doc) for row in rows)
    console().print(table(("JOB", ""), shown))


def _first_line(function: object) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]
