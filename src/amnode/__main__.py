"""`python -m amnode`: the program `amnode`."""

from __future__ import annotations

from amnode.cli.entry import console

if __name__ == "__main__":
    console()
