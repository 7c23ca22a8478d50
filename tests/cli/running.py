"""The program `amnode`, run as a person or a script would."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parents[2]

#: More than any command here takes.
PATIENCE = 20.0


class Ended(msgspec.Struct, frozen=True):
    """How a run of the program ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """What it printed, by lines."""
        return self.out.splitlines()

    @property
    def error(self) -> dict[str, Any]:
        """What it wrote as an error under `--json`."""
        return json.loads(self.err)


def environment(**changes: str) -> dict[str, str]:
    """That of the test, without what would lead the program elsewhere."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AMNODE_", "XDG_"))}
    kept = {
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "COLUMNS": "80",
    }
    return {**clean, **kept, **changes}


async def start(*words: object, env: dict[str, str] | None = None, **options: Any) -> Any:
    """Starts the program; the test ends it."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "amnode", *map(str, words)),
        stdin=options.pop("stdin", asyncio.subprocess.DEVNULL),
        stdout=options.pop("stdout", asyncio.subprocess.PIPE),
        stderr=options.pop("stderr", asyncio.subprocess.PIPE),
        env=environment(**(env or {})),
        **options,
    )


async def amnode(*words: object, env: dict[str, str] | None = None, **options: Any) -> Ended:
    """Runs the program to its end."""
    process = await start(*words, env=env, **options)
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ended(process.returncode, (out or b"").decode(), (err or b"").decode())
