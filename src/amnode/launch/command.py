"""Starting a process by command: a new program, with its boot record on a descriptor.

The record goes through an anonymous file in memory that only the child inherits. Neither the
command line nor the environment holds more than the number of the descriptor.
"""

from __future__ import annotations

import os
import subprocess

from amnode.errors import LaunchError
from amnode.launch.entry import BOOT_FD
from amnode.launch.process import ChildProcess, LaunchSpec

#: Bytes that fit a pipe on every system; more needs an anonymous file in memory.
_PIPE_LIMIT = 4096


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
            popen = _start(spec)
        except OSError as error:
            command = " ".join(spec.argv)
            raise LaunchError(
                f"Cannot start `{command}`: {error.strerror or error}."
            ) from error
        try:
            return ChildProcess(popen, spec.output, use_pidfd=self._use_pidfd)
        except BaseException:
            popen.kill()
            popen.wait()
            raise


def _start(spec: LaunchSpec) -> subprocess.Popen[bytes]:
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


def _boot_descriptor(boot: bytes) -> int:
    """A descriptor from which the child reads `boot` to the end."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("boot", os.MFD_CLOEXEC)
        os.write(descriptor, boot)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor
    if len(boot) > _PIPE_LIMIT:
        raise OSError(f"the boot record of {len(boot)} bytes is over {_PIPE_LIMIT}")
    reading, writing = os.pipe()
    os.write(writing, boot)
    os.close(writing)
    return reading
