"""`amnode completion` writes what a shell can run; `amnode version` says what is installed."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.cli.running import amnode


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_each_shell_gets_its_words(shell: str) -> None:
    ended = await amnode("completion", shell)
    assert (ended.code, ended.err) == (0, "")
    for word in ("inspect", "doctor", "operator-file", "amnode"):
        assert word in ended.out
    assert (await amnode("completion", shell, "--json")).json["script"] in ended.out


async def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    script = tmp_path / "amnode.bash"
    script.write_text((await amnode("completion", "bash")).out)
    for words, expected in (
        (("amnode", "ins"), "inspect"),
        (("amnode", "inspect", "--fol"), "--follow"),
        (("amnode", "completion", "zs"), "zsh"),
    ):
        quoted = " ".join(f"'{word}'" for word in words)
        test = (
            f"source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
            f"_amnode amnode '{words[-1]}' '{words[-2]}'; echo \"${{COMPREPLY[@]}}\""
        )
        process = await asyncio.create_subprocess_exec(
            *(bash, "--norc", "-c", test), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert expected in out.decode().split(), (words, out)


async def test_another_shell_is_a_usage_error() -> None:
    ended = await amnode("completion", "tcsh")
    assert ended.code == 2 and "bash" in ended.err


async def test_the_versions() -> None:
    as_json = await amnode("version", "--json")
    as_text = await amnode("version")
    assert as_json.code == as_text.code == 0
    assert as_text.lines[0] == f"amnode {as_json.json['amnode']}"
    assert f"msgspec {as_json.json['libraries']['msgspec']}" in as_text.out
    assert (await amnode("--version")).out.strip() == as_text.lines[0]
