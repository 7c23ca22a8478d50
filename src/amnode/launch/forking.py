"""The fork server: a program that imports once, and then forks a ready process per request.

It is started by `forkserver.py`, as a program, so it inherits no lock, no loop and of the
descriptors only its channel. Rules:

1. It has one thread. If its imports started others it says so, and does not fork.
2. A child goes back to the top of the program before it begins, and keeps nothing of the
   server: no descriptor, no handler of signals, not its group. It says itself that it is
   there, when it leads a session of its own; one that can tell nobody ends.
3. The server holds no descriptor of its children. A child that is not reaped keeps its number.
4. When its launcher is gone (the channel ended, or the process that it was made for; a fork of
   that may hold the channel) it makes no more processes. It stays, as the reaper of those that
   live, until the last one has ended and none of their orphans is left.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import select
import signal
import sys
import threading
import traceback
from collections import deque
from types import FrameType
from typing import Any, NoReturn, TypeAlias

import msgspec

from amnode.launch.entry import Boot, find, read_boot, run, show_stacks, take_boot
from amnode.launch.fork_channel import (
    Channel,
    Fork,
    Loaded,
    Message,
    NotLoaded,
    Preload,
    Refused,
    SignalGroup,
    Started,
    Surroundings,
)
from amnode.launch.output import last_lines
from amnode.launch.reaper import Reaper, become_subreaper

#: Lines of a traceback that the launcher is told.
_LINES = 5

#: What comes with a request to fork.
_DESCRIPTORS = 3

_Handlers: TypeAlias = dict[signal.Signals, Any]


class _Birth(msgspec.Struct):
    """What a new process is told: its number, and the descriptors of its request."""

    number: int
    surroundings: int
    boot: int
    output: int


class _Server:
    """Waits for requests, and for the ends of children."""

    def __init__(self, channel: Channel, launcher: int) -> None:
        self.channel = channel
        self._launcher = launcher
        self._reaper = Reaper()
        self._to_send: deque[Message] = deque()
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._handlers = _replace_handlers()
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._serving = True

    def serve(self) -> _Birth | None:
        """Serves to the end; returns None then, and in each child, what it is to be."""
        while self._serving or self._reaper.has_children:
            for descriptor in self._wait():
                if descriptor == self._reading:
                    self._reap()
                elif descriptor == self._launcher:
                    self._stop_serving()
                elif self._serving and (birth := self._receive()):
                    return birth
            self._flush()
        return None

    def leave(self) -> None:
        """In a child: keeps nothing of the server but the channel (rule 2)."""
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for descriptor in (self._reading, self._writing, self._launcher):
            os.close(descriptor)

    def _wait(self) -> list[int]:
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        if self._serving:
            poll.register(self._launcher, select.POLLIN)
            wanted = select.POLLIN | (select.POLLOUT if self._to_send else 0)
            poll.register(self.channel, wanted)
        return [descriptor for descriptor, _ in poll.poll()]

    def _stop_serving(self) -> None:
        """Rule 4."""
        self._serving = False
        self._to_send.clear()
        self.channel.close()
        self._reaper.spare_none()

    def _reap(self) -> None:
        os.read(self._reading, 4096)
        ended = self._reaper.reap()
        if self._serving:
            self._to_send += ended

    def _flush(self) -> None:
        while self._serving and self._to_send:
            try:
                self.channel.send(self._to_send[0])
            except BlockingIOError:
                return
            except OSError:
                self._stop_serving()
                return
            self._to_send.popleft()

    def _receive(self) -> _Birth | None:
        """Takes one message; returns in each child that it asks for."""
        try:
            found = self.channel.receive()
        except BlockingIOError:  # the channel was ready to be sent to
            return None
        except OSError:
            found = None
        if found is None:
            self._stop_serving()
            return None
        match found:
            case Fork(number), descriptors if len(descriptors) == _DESCRIPTORS:
                return self._fork(number, *descriptors)
            case Fork(number), descriptors:
                _close(descriptors)
                self._to_send.append(Refused(number, errno.EMFILE, ""))
            case SignalGroup(number, signum), _:
                self._reaper.signal(number, signum)
            case message, _:
                raise SystemExit(f"A fork server is not told {message!r}.")
        return None

    def _fork(self, number: int, surroundings: int, boot: int, output: int) -> _Birth | None:
        # No signal is handled before the child has let go of the handlers.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
        except OSError as error:
            self._to_send.append(Refused(number, error.errno or errno.EAGAIN, ""))
        else:
            if pid == 0:
                self.leave()
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                return _Birth(number, surroundings, boot, output)
            self._reaper.add(pid, number)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _close([surroundings, boot, output])
        return None


def main() -> int:
    """Serves; returns the exit code of the server, or in a child, that of the child."""
    enabled = gc.isenabled()
    gc.disable()  # what it frees would be holes in pages, which each child fills for itself
    show_stacks()
    boot = take_boot()
    preload = msgspec.msgpack.decode(boot.payload, type=Preload)
    channel = Channel.inherited(preload.channel)
    os.set_inheritable(preload.launcher, False)
    sys.path[:] = dict.fromkeys([*boot.path, *sys.path])
    become_subreaper()
    if not _load(preload, channel):
        return 1
    if threads := _other_threads():
        channel.send(Loaded(threads))
        _end_at_once()
    server = _Server(channel, preload.launcher)
    gc.freeze()  # what is there by now is shared with the children, and looked at by none
    channel.send(Loaded([]))
    birth = server.serve()
    if birth is None:
        return 0
    if enabled:
        gc.enable()
    return run(_begin(birth, channel))


def _load(preload: Preload, channel: Channel) -> bool:
    """Imports what is to be shared; False if that failed, which the launcher is told."""
    try:
        for module in preload.modules:
            importlib.import_module(module)
        if preload.run:
            find(preload.run)(preload.payload)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        text = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")
        channel.send(NotLoaded(list(last_lines(text, _LINES))))
        return False
    finally:
        sys.stdout.flush()  # what is left in a buffer every child would write again
        sys.stderr.flush()
    return True


def _other_threads() -> list[str]:
    """The names of the threads of this process but the main one (rule 1)."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    own = threading.get_native_id()
    found = [int(number) for number in os.listdir("/proc/self/task")]
    return [names.get(number, "one that is not Python's") for number in found if number != own]


def _end_at_once() -> NoReturn:
    """Ends although threads run that were not asked."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _replace_handlers() -> _Handlers:
    """The server's own handlers of signals; returns those that were there."""
    # A handler that does nothing is one, so that the end of a child wakes the server.
    wanted: _Handlers = {
        signal.SIGCHLD: _do_nothing,
        signal.SIGINT: signal.SIG_IGN,
        signal.SIGTERM: signal.SIG_DFL,
    }
    return {number: signal.signal(number, handler) for number, handler in wanted.items()}


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    return


def _begin(birth: _Birth, channel: Channel) -> Boot:
    """The first steps of a child (rule 2); returns what it is to do."""
    try:
        os.setsid()
        _take_streams(birth.output)
        surroundings = msgspec.msgpack.decode(_read(birth.surroundings), type=Surroundings)
        if surroundings.cwd:
            os.chdir(surroundings.cwd)
        os.environb.clear()
        os.environb.update(surroundings.env)
        descriptor = os.pidfd_open(os.getpid())
        channel.send(Started(birth.number, os.getpid()), [descriptor], wait=True)
        os.close(descriptor)
    except OSError as error:
        _refuse(birth.number, error, channel)
    channel.close()
    return read_boot(birth.boot)


def _refuse(number: int, error: OSError, channel: Channel) -> NoReturn:
    try:
        name = "" if error.filename is None else os.fsdecode(error.filename)
        text = name.encode("utf-8", "backslashreplace").decode()
        channel.send(Refused(number, error.errno or errno.EIO, text), wait=True)
    finally:
        os._exit(1)


def _take_streams(output: int) -> None:
    """Reads nothing, and writes to its own file."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for stream in (1, 2):
        os.dup2(output, stream)
    _close({nothing, output} - {0, 1, 2})


def _read(descriptor: int) -> bytes:
    with open(descriptor, "rb", buffering=0) as file:
        return file.readall()


def _close(descriptors: list[int] | set[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
