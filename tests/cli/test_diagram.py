"""`amnode diagram` draws the schemas of the pool, of a class, and of a machine that runs."""

from __future__ import annotations

from pathlib import Path

from tests.cli.running import amnode
from tests.cli.workers import Signal
from tests.promises.pools import pool


async def test_the_schemas_of_the_pool() -> None:
    for name, state in (("supervisor", "PoolReady"), ("client", "SuperReady")):
        ended = await amnode("diagram", name)
        assert ended.code == 0 and ended.lines[0] == "flowchart LR"
        assert f'    s_{state}["{state}"]' in ended.lines
    assert (await amnode("diagram")).out == (await amnode("diagram", "worker")).out
    assert (await amnode("diagram", "--format", "dot")).lines[0] == "digraph machine {"


async def test_a_class_of_your_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from amnode import State, Worker, WorkerStates\n"
        "class MyStates(WorkerStates):\n    Warm = State(require=('Ready',))\n"
        "class Mine(Worker):\n    schema = MyStates\n"
        "SCHEMA = MyStates.schema()\nnumber = 7\n"
    )
    drawn = [
        await amnode("diagram", f"mine:{name}", cwd=tmp_path)
        for name in ("Mine", "MyStates", "SCHEMA")
    ]
    assert all("    s_Warm -->|require| s_Ready" in ended.lines for ended in drawn)
    as_json = await amnode("diagram", "mine:Mine", "--json", cwd=tmp_path)
    assert "Warm require Ready" in as_json.json["relations"]
    assert as_json.json["diagram"] == drawn[0].out
    for wrong in ("mine:Yours", "yours:Mine", "mine:number", "mine", "mine:"):
        ended = await amnode("diagram", wrong, cwd=tmp_path)
        assert ended.code == 2 and wrong.partition(":")[0] in ended.err


async def test_a_machine_that_runs() -> None:
    async with pool(1, Signal):
        worker = await amnode("diagram", "--live", "1", "--json")
        assert "Powered" in worker.json["states"] and "Idle" in worker.json["active"]
        assert "class s_" in worker.json["diagram"]
        supervisor = await amnode("diagram", "--live", "supervisor", "--format", "dot")
        assert '    "PoolReady" [style="filled"];' in supervisor.lines
