"""`amnode version`: what is installed, as a report of a fault should say."""

from __future__ import annotations

import platform

import msgspec

from amnode.cli.probes import versions
from amnode.cli.shared import PLAIN, Output
from amnode.cli.show import write_json


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """What is installed.

    Attributes:
        amnode: this package.
        python: implementation and version.
        system: its name and release.
        libraries: by name; None for one that is not there.
    """

    amnode: str
    python: str
    system: str
    libraries: dict[str, str | None]


def version(*, output: Output = PLAIN) -> None:
    """Shows the versions of amnode, of Python, and of the libraries that it uses."""
    found = Versions(
        amnode=versions("amnode")["amnode"] or "unknown",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=f"{platform.system()} {platform.release()}",
        libraries=versions("msgspec", "uvloop", "psutil", "cyclopts", "rich", "cloudpickle"),
    )
    if output.json:
        write_json(found)
        return
    print(f"amnode {found.amnode}")
    print(f"{found.python} on {found.system}")
    print(", ".join(f"{n} {v}" for n, v in found.libraries.items() if v is not None))
