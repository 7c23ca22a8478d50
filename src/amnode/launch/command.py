"""Starting a process by command: a new program, with its boot record on a descriptor.

1. The record goes through an anonymous file in memory that only the child inherits, or, where
   there are none, through a pipe. Neither the command line nor the environment holds more than
   the number of the descriptor.
2. The output goes to a file, not to a pipe: what a process prints must not fail because its
   parent is gone.
3. A start that fails leaves nothing: no process, no descriptor, no file.
4. What is promised of the processes that such a process starts: its group ends with it,
   however it ends. `kill()` ends everything below it, in sessions of their own too. So does
   its own orderly end, if it runs `amnode.launch.entry`. What left the group of one that
   somebody else killed goes to the next subreaper above, and is not ended; with a fork server
   it is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from amnode.errors import LaunchError
from amnode.launch.entry import BOOT_FD, PIPE_LIMIT
from amnode.launch.output import shown
from amnode.launch.output_file import OutputFile, open_output
from amnode.launch.process import ChildProcess, LaunchSpec

#: The command of a process that runs the function which its boot record names.
ENTRY = (sys.executable, "-m", "amnode.launch.entry")

#: The first descriptor that is none of a process's standard streams.
_FIRST_FREE = 3

#: What to do about a refusal of the system.
_ADVICE = {
    errno.ENOENT: "Check that the program, its directory and that of its output exist.",
    errno.EACCES: "Check the permissions of the program and of its output.",
    errno.ELOOP: "Its output must be a file, and no symbolic link.",
    errno.EAGAIN: "No more processes are allowed: see `ulimit -u`, or pids.max of its cgroup.",
    errno.EMFILE: "No descriptors are left: see `ulimit -n`.",
}


class CommandLauncher:
    """Starts each process as a program of its own.

    Args:
        use_pidfd: False watches the processes with threads even where there are pidfds.

    Attributes:
        fallback: "", as there is no other way.
    """

    fallback = ""

    def __init__(self, *, use_pidfd: bool = True) -> None:
        self._use_pidfd = use_pidfd

    async def launch(self, spec: LaunchSpec) -> ChildProcess:
        """Starts a process; see `Launcher`.

        It never waits, so it cannot be cancelled half-way: a start takes as long as the system
        needs to find the program, about a millisecond.

        Raises:
            LaunchError: it could not be started; says which command, and why.
        """
        return start(spec, use_pidfd=self._use_pidfd)

    async def close(self) -> None:
        """There is nothing to close: each process stands for itself."""


def start(
    spec: LaunchSpec,
    *,
    use_pidfd: bool = True,
    pass_fds: Sequence[int] = (),
    ends_below: bool = True,
) -> ChildProcess:
    """Starts a process by command.

    Args:
        spec: what to start.
        use_pidfd: False watches it with a thread even where there are pidfds.
        pass_fds: descriptors that it inherits, besides its boot record.
        ends_below: what it started is ended with it; False where only its group is.

    Raises:
        LaunchError: it could not be started; says which command, and why.
    """
    try:
        return _start(spec, use_pidfd, pass_fds, ends_below)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise LaunchError(explain(spec, error)) from error


def _start(
    spec: LaunchSpec, use_pidfd: bool, pass_fds: Sequence[int], ends_below: bool
) -> ChildProcess:
    if not spec.argv:
        raise ValueError("there is no program in its argv")
    with ExitStack() as undo, ExitStack() as opened:
        output = open_output(spec.output, undo)
        opened.callback(os.close, output)
        boot = _above_standard(record_descriptor(spec.boot))
        opened.callback(os.close, boot)
        environment = dict(os.environ if spec.env is None else spec.env)
        environment[BOOT_FD] = str(boot)
        file = OutputFile.opened(spec.output, output, spec.output_limit)
        popen = subprocess.Popen(
            spec.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=spec.cwd,
            env=environment,
            pass_fds=(boot, *pass_fds),
            start_new_session=True,
        )
        child = ChildProcess(popen, file, use_pidfd=use_pidfd, ends_below=ends_below)
        undo.pop_all()
    return child


def record_descriptor(boot: bytes) -> int:
    """A descriptor from which a child reads `boot` to the end (rule 1).

    Raises:
        OSError: there is none, or what there is cannot hold it.
    """
    if not hasattr(os, "memfd_create"):
        return _boot_pipe(boot)
    with ExitStack() as undo:
        descriptor = os.memfd_create("boot")
        undo.callback(os.close, descriptor)
        left = memoryview(boot)
        while left:
            left = left[os.write(descriptor, left) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        undo.pop_all()
    return descriptor


def _above_standard(descriptor: int) -> int:
    """The descriptor under a number that no standard stream of the child takes.

    It has one where this process has closed a standard stream of its own.
    """
    if descriptor >= _FIRST_FREE:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
    finally:
        os.close(descriptor)


def _boot_pipe(boot: bytes) -> int:
    """The reading end of a pipe that holds all of `boot`, and nobody writes to."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        # What does not fit would have to be written while the child reads, by a task.
        if len(boot) > PIPE_LIMIT or (boot and os.write(writing, boot) < len(boot)):
            raise OSError(errno.EMSGSIZE, f"a boot record of {len(boot)} bytes fits no pipe")
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return reading


def explain(spec: LaunchSpec, error: Exception) -> str:
    """Which command, why not, and what to do; no line of it can be forged by an argument."""
    reason = str(error)
    advice = ""
    if isinstance(error, OSError):
        reason = error.strerror or reason
        if error.filename is not None:
            reason += f": {os.fspath(error.filename)!r}"
        advice = _ADVICE.get(error.errno or 0, "")
    command = shown(shlex.join(spec.argv)) or "an empty command"
    return f"Cannot start `{command}`: {reason}. {advice}".rstrip()
