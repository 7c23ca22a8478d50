"""`make demo`, on a part of its input: what it shows is true, and it leaves nothing.

That no process and no file is left is seen by the guard of every test (tests/conftest.py): the
demo inherits its cookie and its temporary directory.
"""

from __future__ import annotations

import ast
import re
import signal
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

DEMO = (sys.executable, str(Path(__file__).parent.parent / "examples" / "demo.py"))
LIMIT = 60
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def run_demo(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *options], capture_output=True, text=True, timeout=25, check=False
    )


def shown(output: str, what: str) -> int:
    found = re.search(rf"^ *([\d,]+)  {re.escape(what)}", output, re.MULTILINE)
    assert found is not None, f"{what!r} is not in:\n{output}"
    return int(found[1].replace(",", ""))


def parsed_files() -> list[tuple[str, list[ast.AST]]]:
    """The demo's input, read without it."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path.relative_to(root) for path in root.rglob("*.py")]
    names = sorted(path.as_posix() for path in paths if "site-packages" not in path.parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            (name, [*ast.walk(ast.parse((root / name).read_bytes()))]) for name in names[:LIMIT]
        ]


def test_a_worker_is_killed_and_the_findings_are_what_ast_finds() -> None:
    ended = run_demo("--plain", "--limit", str(LIMIT))

    assert ended.returncode == 0, ended.stdout + ended.stderr
    output = ended.stdout
    files = parsed_files()
    functions = [
        ((node.end_lineno or 0) - node.lineno + 1, f"{node.name} in {name}")
        for name, nodes in files
        for node in nodes
        if isinstance(node, FUNCTIONS)
    ]
    classes = sum(isinstance(node, ast.ClassDef) for _, nodes in files for node in nodes)
    lines, longest = max(functions)
    assert shown(output, "files, all of them in the index") == LIMIT
    assert shown(output, "functions") == len(functions)
    assert shown(output, "classes") == classes
    assert shown(output, f"lines in the longest function, {longest}") == lines

    killed = re.search(r"^SIGKILL to (\S+) \(pid \d+\)", output, re.MULTILINE)
    replaced = re.search(r"^Leased (\S+) in its place", output, re.MULTILINE)
    assert killed is not None and replaced is not None, output
    assert killed[1] != replaced[1]
    assert f"Its call failed, cause 'signal': Worker {killed[1]}" in output
    assert "was ended by SIGKILL while leased" in output
    assert shown(output, "files indexed again") > 0
    assert ended.stderr == ""


def test_too_few_files_are_refused_by_name() -> None:
    ended = run_demo("--limit", "3")

    assert ended.returncode == 2
    assert "3 files are too few for 3 workers" in ended.stderr


def test_an_interrupt_ends_it_and_its_workers() -> None:
    with subprocess.Popen(
        [*DEMO, "--plain"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that a shell runs in the background ignores interrupts, and so would the demo.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as demo:
        try:
            assert demo.stdout is not None
            for line in demo.stdout:
                if line.startswith("The pool is ready"):
                    break
            demo.send_signal(signal.SIGINT)
            _, errors = demo.communicate(timeout=20)
        finally:
            demo.kill()
    assert demo.returncode == 130
    assert errors == "Interrupted. Nothing is left running.\n"
