"""What a worker's process imports: little, since every worker pays for it at its start.

`benchmarks/imports.py` has the time that it takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

PROBE = """
import json, sys
import asyncio, msgspec
try:
    import uvloop
except ImportError:  # no uvloop for this platform
    pass
before = set(sys.modules)
import {module}
print(json.dumps(sorted(set(sys.modules) - before)))
"""

#: Exactly these; of the layers in `BELOW`, whatever their files need.
OF_A_WORKER = {
    "amnode.launch",
    "amnode.launch.entry",
    "amnode.launch.reaper",
    "amnode.node",
    "amnode.node.args",
    "amnode.node.chunks",
    "amnode.node.class_name",
    "amnode.node.failures",
    "amnode.node.job_thread",
    "amnode.node.dispatcher",
    "amnode.node.items",
    "amnode.node.job_note",
    "amnode.node.jobs",
    "amnode.node.memory",
    "amnode.node.names",
    "amnode.node.node_args",
    "amnode.node.operators",
    "amnode.node.outside",
    "amnode.node.policy",
    "amnode.node.policy.deadlines",
    "amnode.node.policy.door",
    "amnode.node.policy.lease",
    "amnode.node.policy.options",
    "amnode.node.policy.owner",
    "amnode.node.private_directory",
    "amnode.node.progress",
    "amnode.node.runner",
    "amnode.node.states",
    "amnode.node.timers",
    "amnode.node.transition_log",
    "amnode.node.values",
    "amnode.node.work",
    "amnode.node.worker",
}
BELOW = ("amnode.errors", "amnode.machine", "amnode.rpc")
NEVER = (
    "rich psutil cyclopts starlette uvicorn ray nats cloudpickle multiprocessing "
    "concurrent.futures.process xml http email sqlite3 unittest"
)


#: What few machines need is imported when the first one does.
LATE = (
    "__main__ arguments breakpoints combine diagram log queue_waits related snapshot story "
    "threads watchdog"
)


@cache
def _imported(module: str) -> list[str]:
    command = [sys.executable, "-c", PROBE.format(module=module)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_a_worker_imports_nothing_that_it_does_not_need() -> None:
    ours = {name for name in _imported("amnode.node.worker") if name.startswith("amnode.")}
    extra = {name for name in ours - OF_A_WORKER if not name.startswith(BELOW)}
    assert not extra
    assert ours >= OF_A_WORKER, "take out of the list what a worker no longer imports"


@pytest.mark.parametrize("never", NEVER.split())
def test_a_worker_never_imports(never: str) -> None:
    found = _imported("amnode.node.worker")
    assert not [name for name in found if name == never or name.startswith(f"{never}.")]


def test_a_worker_imports_late_what_few_machines_need() -> None:
    found = _imported("amnode.node.worker")
    assert not [name for name in LATE.split() if f"amnode.machine.{name}" in found]


def test_the_package_itself_imports_nothing() -> None:
    """Its names are imported on first use, so that a worker does not pay for a supervisor."""
    assert [name for name in _imported("amnode") if name.startswith("amnode.")] == []
