"""Starting a process by command: a new program, with its boot record on a descriptor.

1. The record goes through an anonymous file in memory that only the child inherits, or, where
   there are none, through a pipe. Neither the command line nor the environment holds more than
   the number of the descriptor.
2. The output goes to a file, not to a pipe: what a process prints must not fail because its
   parent is gone. Only its owner may read it, and a symbolic link in its place is refused.
3. A start that fails leaves nothing: no process, no descriptor, no file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
import subprocess
from contextlib import ExitStack
from pathlib import Path

from amnode.errors import LaunchError
from amnode.launch.entry import BOOT_FD, PIPE_LIMIT
from amnode.launch.output import shown
from amnode.launch.process import ChildProcess, LaunchSpec

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
    """

    def __init__(self, *, use_pidfd: bool = True) -> None:
        self._use_pidfd = use_pidfd

    async def launch(self, spec: LaunchSpec) -> ChildProcess:
        """Starts a process; see `Launcher`.

        It never waits, so it cannot be cancelled half-way: a start takes as long as the system
        needs to find the program, about a millisecond.

        Raises:
            LaunchError: it could not be started; says which command, and why.
        """
        try:
            return _start(spec, use_pidfd=self._use_pidfd)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise LaunchError(_explain(spec, error)) from error


def _start(spec: LaunchSpec, *, use_pidfd: bool) -> ChildProcess:
    if not spec.argv:
        raise ValueError("there is no program in its argv")
    with ExitStack() as undo, ExitStack() as opened:
        output = _open_output(spec.output, undo)
        opened.callback(os.close, output)
        boot = _above_standard(_boot_descriptor(spec.boot))
        opened.callback(os.close, boot)
        environment = dict(os.environ if spec.env is None else spec.env)
        environment[BOOT_FD] = str(boot)
        before = os.fstat(output).st_size
        popen = subprocess.Popen(
            spec.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=spec.cwd,
            env=environment,
            pass_fds=(boot,),
            start_new_session=True,
        )
        child = ChildProcess(popen, spec.output, output_start=before, use_pidfd=use_pidfd)
        undo.pop_all()
    return child


def _open_output(path: Path, undo: ExitStack) -> int:
    """Opens the output file to append to it (rule 2); `undo` removes it if it was made."""
    # Without O_NONBLOCK the opening of a FIFO would wait for its reader.
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        descriptor = os.open(path, flags)
    else:
        undo.callback(path.unlink, missing_ok=True)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "its output is no regular file", str(path))
    os.set_blocking(descriptor, True)
    return descriptor


def _boot_descriptor(boot: bytes) -> int:
    """A descriptor from which the child reads `boot` to the end (rule 1)."""
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


def _explain(spec: LaunchSpec, error: Exception) -> str:
    """The command, the reason, and what to do; no line of it can be forged by an argument."""
    reason = str(error)
    advice = ""
    if isinstance(error, OSError):
        reason = error.strerror or reason
        if error.filename is not None:
            reason += f": {os.fspath(error.filename)!r}"
        advice = _ADVICE.get(error.errno or 0, "")
    command = shown(shlex.join(spec.argv)) or "an empty command"
    return f"Cannot start `{command}`: {reason}. {advice}".rstrip()
