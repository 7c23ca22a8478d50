"""The files of a state directory, as text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.errors import StateDirectoryError
from amnode.node.policy.adopt_records import (
    WorkerRecord,
    decode_generation,
    decode_record,
    encode_generation,
    encode_record,
    file_name,
)

RECORD = WorkerRecord(
    worker_id="nw-plain-1",
    kind="Plain",
    secret=b"s" * 32,
    pid=7,
    pid_start=8.5,
    address="unix:/x/l",
    public_addr="unix:/x/p",
)


@given(
    secret=st.binary(min_size=16, max_size=64),
    pid=st.integers(0, 2**31),
    start=st.floats(0, 1e12),
    kind=st.text(max_size=20),
    address=st.sampled_from(["", "unix:/a b/é"]),
)
def test_a_record_comes_back_as_it_was(
    secret: bytes, pid: int, start: float, kind: str, address: str
) -> None:
    record = WorkerRecord(
        worker_id="nw-a", kind=kind, secret=secret, pid=pid, pid_start=start, address=address
    )
    assert decode_record(encode_record(record), "f") == record
    assert record.can_be_found == bool(address)


def test_it_can_be_read_by_people_and_shows_no_secret_elsewhere() -> None:
    assert json.loads(encode_record(RECORD))["worker_id"] == "nw-plain-1"
    assert "secret" not in repr(RECORD) and "ssss" not in repr(RECORD)
    assert file_name(RECORD.worker_id) == "nw-plain-1.worker"


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"worker_id": "nw-../../etc/passwd"},
        {"worker_id": "me"},
        {"secret": "c2hvcnQ="},
        {"pid": -1},
        {"pid_start": -1.0},
        {"address": "tcp:1.2.3.4:5"},
        {"address": "unix:relative"},
        {"more": 1},
        {"pid": "7"},
    ],
)
def test_what_is_no_record_is_refused_by_the_name_of_its_file(change: dict[str, Any]) -> None:
    data = json.dumps(json.loads(encode_record(RECORD)) | change).encode()
    with pytest.raises(StateDirectoryError, match="/dir/file cannot be used"):
        decode_record(data, "/dir/file")


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else_is_raised(data: bytes) -> None:
    with pytest.raises(StateDirectoryError, match="f cannot be used"):
        decode_record(data, "f")


def test_a_file_that_nests_without_end_is_refused() -> None:
    with pytest.raises(StateDirectoryError):
        decode_record(b"[" * 60_000, "f")


@given(st.integers(0, 10**14))
def test_a_generation_comes_back_as_it_was(generation: int) -> None:
    assert decode_generation(encode_generation(generation), "f") == generation


@pytest.mark.parametrize("data", [b"", b"x", b"-1", b"1 2", b"9" * 16, b"\xff"])
def test_a_generation_that_is_no_number_is_refused(data: bytes) -> None:
    with pytest.raises(StateDirectoryError, match="f cannot be used"):
        decode_generation(data, "f")
