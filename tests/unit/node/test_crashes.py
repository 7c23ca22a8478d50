"""What is remembered of crashes: the last few, with numbers that only grow, as files too."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amnode import SupervisorOptions
from amnode.node.args import CrashReport, WorkerInfo
from amnode.node.policy.crashes import (
    CrashLog,
    Last,
    crash_file,
    decode_crash,
    encode_crash,
    is_crash_file,
    last_of,
)
from amnode.node.policy.lease import Held
from amnode.node.policy.roster import Member
from amnode.node.policy.waitlist import Waiter

REPORT = CrashReport(cause="signal", message="Worker w was ended.", pid=7, signal="SIGKILL")


@given(st.integers(0, 4), st.integers(0, 9))
def test_the_last_ones_are_remembered(kept: int, count: int) -> None:
    log = CrashLog(kept)
    gone: list[int] = []
    for n in range(count):
        record = log.add(f"w{n}", REPORT, Last(), float(n))
        assert (record.number, record.at) == (n + 1, float(n))
        gone += [outdated.number for outdated in log.outdated()]
    assert gone + [record.number for record in log] == list(range(1, count + 1))
    assert len(log) == min(kept, count)


def test_numbers_go_on_after_those_of_before() -> None:
    before = CrashLog(5).add("w1", REPORT, Last("ann", 3, 1.5, 2, ("moved",)), 9.0)
    log = CrashLog(5)
    restored = decode_crash(encode_crash(before))
    assert restored == before
    log.restore(before)
    assert log.add("w2", REPORT, Last(), 10.0).number == 2


def test_what_is_no_record_is_none() -> None:
    for data in (b"", b"{}", b"[" * 100_000, encode_crash(next(iter(_one())))[:-20]):
        assert decode_crash(data) is None


def _one() -> CrashLog:
    log = CrashLog(1)
    log.add("w", REPORT, Last(), 0.0)
    return log


def test_files_sort_by_number() -> None:
    names = [crash_file(number) for number in (1, 2, 10, 100_000)]
    assert names == sorted(names) and all(map(is_crash_file, names))
    assert not is_crash_file("nw-a-1.worker")
    assert not is_crash_file("crash-1.new")


def test_what_is_known_of_a_worker_at_its_end() -> None:
    member = Member.start("w", 10.0, SupervisorOptions())
    before = Last(jobs_done=4)
    assert last_of(member, before, 12.0, ("moved",)) == Last("", 0, 2.0, 4, ("moved",))
    member.info = WorkerInfo(
        worker_id="w", kind="K", schema_hash="h", leased_tick=3, jobs_done=7
    )
    member.held = Held.ask(Waiter("super", "ann", "r1", "rpc", 9.0, 0), 2)
    assert last_of(member, before, 12.0, ()) == Last("ann", 3, 2.0, 7)
