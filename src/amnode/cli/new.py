"""`amnode new`: writes the files of a new project, and never over anything."""

from __future__ import annotations

from pathlib import Path

from amnode.cli.project import Project
from amnode.errors import OptionError


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
