"""What readings of a machine mean."""

from __future__ import annotations

import pytest

from amnode.cli import findings
from amnode.cli.findings import Finding, Verdict, human, worst

OK, NOTE, WORSE, MISSING = Verdict
GIB = 1024**3


@pytest.mark.parametrize(
    ("finding", "verdict", "told"),
    [
        (findings.python("CPython", (3, 11, 0)), OK, "CPython 3.11.0"),
        (findings.python("CPython", (3, 10, 9)), MISSING, "3.11 and newer"),
        (findings.python("PyPy", (3, 11, 0)), WORSE, "never been tried"),
        (findings.platform("Linux", "6.1"), OK, "Linux 6.1"),
        (findings.platform("Darwin", "24"), WORSE, "by command"),
        (findings.platform("Windows", "11"), MISSING, "WSL 2"),
        (findings.libraries({"msgspec": "0.22", "psutil": "7"}), OK, "msgspec 0.22, psutil 7"),
        (findings.libraries({"msgspec": "1", "psutil": None}), MISSING, "pip install psutil"),
        (findings.loop("0.22"), OK, "0.22"),
        (findings.loop(None), WORSE, "pip install uvloop"),
        (findings.extras({"rich": "1", "cyclopts": "1", "cloudpickle": "1"}), OK, "rich 1"),
        (findings.extras({"rich": "1", "numpy": None}), OK, "rich 1"),
        (findings.extras({"cloudpickle": None}), NOTE, "amnode[executor]"),
        (findings.extras({"rich": None, "cyclopts": None}), NOTE, "amnode[cli]"),
        (findings.stacks(usable=True), OK, "usable"),
        (findings.stacks(usable=False), WORSE, "without saying where"),
        (findings.pidfd(usable=True), OK, "usable"),
        (findings.pidfd(usable=False), WORSE, "by command"),
        (findings.exit_info(usable=True), OK, "usable"),
        (findings.exit_info(usable=False), NOTE, "6.15"),
        (findings.subreaper(usable=True), OK, "usable"),
        (findings.subreaper(usable=False), WORSE, "left running"),
        (findings.fork_server(""), OK, "usable"),
        (findings.fork_server("no pidfd"), WORSE, "no pidfd"),
        (findings.process_list(usable=True), OK, "mounted"),
        (findings.process_list(usable=False), WORSE, "mount"),
        (findings.clock(1e-9, monotonic=True), OK, "1 ns"),
        (findings.clock(0.015, monotonic=True), WORSE, "no finer"),
        (findings.clock(1e-9, monotonic=False), WORSE, "can be set"),
        (findings.descriptors(-1, -1), OK, "unlimited"),
        (findings.descriptors(1024, 4096), OK, "about 333 workers"),
        (findings.descriptors(128, 4096), WORSE, "ulimit -n 324, or"),
        (findings.descriptors(128, 256), WORSE, "as root LimitNOFILE=324"),
        (findings.descriptors(128, -1), WORSE, "ulimit -n 324, or"),
        (findings.descriptors(20, 20), MISSING, "about 0 workers"),
        (findings.processes(-1, 0), OK, "unlimited"),
        (findings.processes(1000, 100), OK, "about 450 workers"),
        (findings.processes(150, 100), WORSE, "no more than 25 workers"),
        (findings.processes(100, 100), MISSING, "about 0 workers"),
        (findings.tasks(None, 3), OK, "no limit"),
        (findings.tasks(1000, 3), OK, "about 498 workers"),
        (findings.tasks(100, 50), WORSE, "--pids-limit"),
        (findings.tasks(10, 10), MISSING, "about 0 workers"),
        (findings.memory(None, 8 * GIB), OK, "8.0 GiB, no limit"),
        (findings.memory(16 * GIB, 8 * GIB), OK, "no limit"),
        (findings.memory(7 * GIB, 16 * GIB), NOTE, "max_rss"),
        (findings.memory(GIB, 16 * GIB), NOTE, "more than 16 workers"),
        (findings.memory(GIB // 8, 16 * GIB), WORSE, "more than 2 workers"),
        (findings.processors(4, None), OK, "4"),
        (findings.processors(4, 2.5), OK, "2.5 of them"),
        (findings.processors(4, 0.5), WORSE, "late"),
        (findings.temporary("/tmp", "", GIB, linux=True), OK, "/tmp, 1.0 GiB free"),
        (findings.temporary("/t" * 50, "", GIB, linux=True), OK, "free"),
        (findings.temporary("/t" * 50, "", GIB, linux=False), MISSING, "shorter path"),
        (findings.temporary("/tmp", "full", 0, linux=True), MISSING, "/tmp: full"),
        (findings.temporary("/tmp", "", 1000, linux=True), WORSE, "1000 B free"),
        (findings.shared_memory(GIB, writable=True), OK, "1.0 GiB"),
        (findings.shared_memory(64 * 1024**2, writable=True), NOTE, "--shm-size"),
        (findings.shared_memory(GIB, writable=False), NOTE, "not writable"),
        (findings.shared_memory(None, writable=False), NOTE, "not there"),
        (findings.addresses({"unix": "", "tcp": ""}), OK, "unix usable, tcp usable"),
        (findings.addresses({"unix": "", "tcp": "no"}), NOTE, "addresses of tcp"),
        (findings.addresses({"unix": "no", "tcp": ""}), MISSING, "AF_UNIX"),
        (findings.pool("", ready=0.5, call=0.0002, ways="forked"), OK, "0.20 ms"),
        (findings.pool("PoolError: no"), MISSING, "PoolError: no"),
    ],
)
def test_a_reading_is_judged(finding: Finding, verdict: Verdict, told: str) -> None:
    assert finding.verdict is verdict
    assert told in f"{finding.found} | {finding.cost} | {finding.remedy}"
    assert bool(finding.cost) == bool(finding.remedy) == (verdict is not OK)


def test_the_gravest_of_several_counts() -> None:
    one = findings.python("CPython", (3, 12, 0))
    assert worst([]) is worst([one]) is OK
    assert worst([one, findings.exit_info(usable=False)]) is NOTE
    assert worst([findings.loop(None), findings.exit_info(usable=False)]) is WORSE
    assert worst([findings.pool("no"), one]) is MISSING


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (20 * 1024, "20 KiB"),
        (5 * GIB, "5.0 GiB"),
        (3000 * 1024**4, "3000 TiB"),
    ],
)
def test_bytes_for_people(size: int, text: str) -> None:
    assert human(size) == text
