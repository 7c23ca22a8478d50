"""`amnode completion`: what a shell has to be told to complete commands and options."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from amnode.cli.shared import PLAIN, Output
from amnode.cli.show import write_json

Shell = Literal["bash", "zsh", "fish"]


def completion(
    shell: Annotated[Shell, Parameter(name="SHELL", help="Whose words to write.")],
    /,
    *,
    output: Output = PLAIN,
) -> None:
    """Writes the completion of commands, options and their values for a shell.

    For bash, `source <(amnode completion bash)` in ~/.bashrc. For zsh, `amnode completion zsh >
    _amnode` in a directory of $fpath, before compinit. For fish, `amnode completion fish >
    ~/.config/fish/completions/amnode.fish`.
    """
    from amnode.cli.app import make_app  # not at the top: it is what imports this file

    script = make_app().generate_completion(prog_name="amnode", shell=shell)
    if output.json:
        write_json({"shell": shell, "script": script})
    else:
        print(script)
