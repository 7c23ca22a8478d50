"""Ids by which the actors know each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amnode.node import names


def test_they_are_those_of_the_reference() -> None:
    assert names.super_client_id("me") == "nc-super-me"
    assert names.worker_client_id("me") == "nc-worker-me"
    assert names.handshake_id("nc-super-me") == "rc-nc-super-me"
    assert names.LOG_SUPERVISOR == "AM_NODE_LOG_SUPERVISOR"
    assert names.LOG_CLIENT == "AM_NODE_LOG_CLIENT"


@given(st.text(min_size=1), st.text("0123456789abcdef", min_size=8, max_size=8))
def test_a_client_is_counted_by_its_name_whatever_its_process(name: str, nonce: str) -> None:
    connection = names.handshake_id(names.super_client_id(f"{name}.{nonce}"))
    assert names.client_name(connection) == name


def test_a_foreign_id_counts_as_itself() -> None:
    assert names.client_name("rc-nc-super-raw") == "raw"
    assert names.client_name("something") == "something"
