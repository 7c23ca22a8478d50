"""Tells the service manager how the supervisor is, as systemd's `Type=notify` has it.

Without a manager (`NOTIFY_SOCKET`) nothing is told. What cannot be told is no failure: the pool
is worth more than its report.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress


class Manager:
    """The service manager that started this process, if there is one."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")

    def ready(self) -> None:
        """The service is up."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """It is about to end."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._tell(f"STATUS={text}")

    def alive(self) -> None:
        """A sign of life, for `WatchdogSec=`."""
        self._tell("WATCHDOG=1")

    @property
    def beat(self) -> float:
        """Seconds between two signs of life; 0 if none is asked for."""
        if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return 0.0
        try:
            return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 / 2
        except ValueError:
            return 0.0

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):  # Linux's own name space
            address = "\0" + address[1:]
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
            door.connect(address)
            door.send(text.encode())
