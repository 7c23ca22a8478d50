"""Trace: what happened in a simulation, as a hash that two runs can be compared by.

All bytes that arrived, and each thing worth a line, go into it, with their times. The lines
themselves are kept only if they are asked for.
"""

from __future__ import annotations

from hashlib import blake2b


class Trace:
    """What happened so far.

    Args:
        keep: whether to keep the lines, too.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.lines: list[str] = []
        self._keep = keep
        self._hash = blake2b(digest_size=16)

    def note(self, now: float, who: str, what: str) -> None:
        """Something happened."""
        line = f"{now:.6f} {who}: {what}"
        self._hash.update(line.encode())
        if self._keep:
            self.lines.append(line)

    def arrived(self, now: float, where: str, data: bytes) -> None:
        """Bytes arrived."""
        self._hash.update(f"{now:.9f}{where}".encode())
        self._hash.update(data)

    def digest(self) -> str:
        """The hash of all that."""
        return self._hash.hexdigest()
