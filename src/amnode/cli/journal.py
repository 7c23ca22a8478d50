"""How `amnode up` says what happens: as lines of text, or as JSON, a line each.

Where the lines go to the system's journal they have no time, since it writes its own, and the
level in front as it understands it.
"""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime

import msgspec

from amnode.cli.settings import LogSettings
from amnode.errors import OptionError

#: The levels of syslog, which the journal understands as `<N>` in front of a line.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


class TextLines(logging.Formatter):
    """A line each, with its time."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")


class JournalLines(logging.Formatter):
    """A line each, with its priority; no line of a message is without."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        levels = [level for level in _PRIORITIES if level <= record.levelno]
        priority = _PRIORITIES[max(levels, default=logging.DEBUG)]
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))


class JsonLines(logging.Formatter):
    """An object each."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        said: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(said).decode()


def set_up(settings: LogSettings) -> logging.Handler:
    """Sends what is logged to where the settings say.

    Raises:
        OptionError: the file cannot be written.
    """
    try:
        handler = logging.FileHandler(settings.file) if settings.file else _standard_error()
    except OSError as error:
        raise OptionError(f"log.file {settings.file}: {error.strerror}.") from None
    if settings.format == "json":
        handler.setFormatter(JsonLines())
    elif not settings.file and os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(JournalLines())
    else:
        handler.setFormatter(TextLines())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    return handler


def _standard_error() -> logging.Handler:
    return logging.StreamHandler()
