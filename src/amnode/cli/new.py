"""`amnode new`: writes the files of a new project, and never over anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from amnode.cli.project import Project
from amnode.cli.shared import PLAIN, Output
from amnode.cli.show import write_json
from amnode.errors import OptionError


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A project that was written.

    Attributes:
        name: of the project.
        worker: its Worker class, as `module:Class`.
        files: their paths.
    """

    name: str
    worker: str
    files: tuple[str, ...]


def new(
    directory: Annotated[
        Path,
        Parameter(
            name="NAME", help="The name of the project, or a path: its last part is the name."
        ),
    ],
    /,
    *,
    output: Output = PLAIN,
) -> None:
    """Writes a project: a typed worker, its test, its supervisor's settings, a README.

    The directory is made; one that is there has to be empty. Its test passes as it is written.
    """
    project, files = write(directory)
    told = Written(
        name=project.name,
        worker=f"{project.package}.worker:{project.worker}",
        files=tuple(map(str, files)),
    )
    if output.json:
        write_json(told)
        return
    print("\n".join(told.files))
    print(f"\nNext: cd {directory}, and what README.md says under `First`.")


def write(where: Path) -> tuple[Project, list[Path]]:
    """Writes a project into a directory of its name, which is made, or is there and empty.

    Raises:
        OptionError: the name cannot work, or there is something already; nothing was written.
        OSError: the system refuses.
    """
    project = Project.named(where.resolve().name)
    if where.exists() and (not where.is_dir() or any(where.iterdir())):
        raise OptionError(
            f"{where} is there already, and not empty. Choose another name, or move it away."
        )
    written: list[Path] = []
    for name, text in project.files().items():
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        written.append(path)
    return project, written
