"""`amnode doctor` says what a machine offers, and ends with 1 where no pool could run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from amnode.cli.probes import PROBES
from tests.cli.running import amnode

ROOT = Path(__file__).parents[2]


async def test_it_says_what_there_is() -> None:
    as_json = await amnode("doctor", "--json")
    as_text = await amnode("doctor")
    assert as_json.code == as_text.code == 0 and as_text.err == ""
    found = {f["name"]: f for f in as_json.json["findings"]}
    assert len(found) == len(PROBES)
    assert found["python"]["found"].endswith(".".join(map(str, sys.version_info[:3])))
    for name, finding in found.items():
        assert any(name in line and finding["found"] in line for line in as_text.lines)
        assert bool(finding["cost"]) == (finding["verdict"] != "ok")


async def test_it_can_prove_that_a_pool_works() -> None:
    ended = await amnode("doctor", "--try", "--json")
    assert ended.code == 0
    last = ended.json["findings"][-1]
    assert (last["name"], last["verdict"]) == ("a pool of one", "ok")
    assert "a call took" in last["found"]


async def test_without_a_place_for_files_it_ends_with_1(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    # The system's own places are tried where TMPDIR is none; these are taken away as well.
    program = (
        "import sys, tempfile; tempfile._candidate_tempdir_list = "
        f"lambda: [{str(missing)!r}]; from amnode.cli.entry import main; "
        "sys.exit(main(['doctor']))"
    )
    ended = await run(program, TMPDIR=str(missing))
    assert ended[0] == 1 and "MISSING" in ended[1] and "set TMPDIR" in ended[1]
    assert "Pools do not run here" in ended[1]


async def test_a_low_limit_of_descriptors_is_told() -> None:
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); "
        "from amnode.cli.entry import main; sys.exit(main(['doctor']))"
    )
    code, out = await run(program)
    line = next(line for line in out.splitlines() if " open files " in line)
    assert code == 0 and line.startswith("less") and "about 13 workers" in line


async def run(program: str, **environment_changes: str) -> tuple[int, str]:
    """Runs a text as a program; its exit code and what it printed."""
    import asyncio

    from tests.cli.running import environment

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        stdout=asyncio.subprocess.PIPE,
        env=environment(**environment_changes),
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


@pytest.mark.parametrize("probe", PROBES)
def test_each_probe_leaves_nothing(probe: object) -> None:
    before = os.dup(0)
    os.close(before)
    finding = probe()  # type: ignore[operator]
    after = os.dup(0)  # the lowest number that is free
    os.close(after)
    assert finding.found and before == after


def test_each_finding_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "doctor.md").read_text(encoding="utf-8")
    for probe in PROBES:
        assert f"| {probe().name} |" in page, (
            "docs/reference/doctor.md has a row for each finding"
        )
