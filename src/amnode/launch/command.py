"""Starting a process by command: a new program, with its boot record on a descriptor.

The record goes through an anonymous file in memory that only the child inherits. Neither the
command line nor the environment holds more than the number of the descriptor.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess

from amnode.errors import LaunchError
from amnode.launch.entry import BOOT_FD
from amnode.launch.process import ChildProcess, LaunchSpec

#: The first descriptor that is none of a child's standard streams.
_FIRST_FREE = 3


class CommandLauncher:
    """Starts each process as a program of its own.

    Args:
        use_pidfd: False watches the processes with threads even where there are pidfds.
    """

    def __init__(self, *, use_pidfd: bool = True) -> None:
        self._use_pidfd = use_pidfd

    async def launch(self, spec: LaunchSpec) -> ChildProcess:
        """Starts a process; see `Launcher`.

        Raises:
            LaunchError: it could not be started; says which command, and why.
        """
        try:
            return ChildProcess(_start(spec), spec.output, use_pidfd=self._use_pidfd)
        # ValueError: what no system call takes. RuntimeError: no thread to watch it with.
        except (OSError, ValueError, RuntimeError) as error:
            command = shlex.join(spec.argv)
            raise LaunchError(f"Cannot start `{command}`: {_reason(error)}.") from error


def _start(spec: LaunchSpec) -> subprocess.Popen[bytes]:
    if not spec.argv:
        raise ValueError("no program is named")
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    output = os.open(spec.output, flags, 0o600)
    try:
        boot = _boot_descriptor(spec.boot)
        try:
            environment = dict(os.environ if spec.env is None else spec.env)
            environment[BOOT_FD] = str(boot)
            return subprocess.Popen(
                spec.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=spec.cwd,
                env=environment,
                pass_fds=(boot,),
                start_new_session=True,
            )
        finally:
            os.close(boot)
    finally:
        os.close(output)


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    if error.filename is None:
        return error.strerror
    return f"{error.strerror}: {os.fsdecode(error.filename)!r}"


def _boot_descriptor(boot: bytes) -> int:
    """A descriptor from which the child reads `boot` to the end."""
    descriptor = _in_memory(boot) if hasattr(os, "memfd_create") else _in_pipe(boot)
    if descriptor >= _FIRST_FREE:
        return descriptor
    # This process has closed one of its own standard streams; the child's would replace it.
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
    finally:
        os.close(descriptor)


def _in_memory(boot: bytes) -> int:
    descriptor = os.memfd_create("boot", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:  # noqa: PTH123 - a descriptor
            file.write(boot)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _in_pipe(boot: bytes) -> int:
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        fitted = os.write(writing, boot)
        if fitted < len(boot):
            raise OSError(f"a boot record of {len(boot)} bytes; a pipe takes {fitted} here")
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return reading
