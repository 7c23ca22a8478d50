"""Where clients come in, and what of it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from amnode.errors import OptionError
from amnode.node.policy.door import (
    DEFAULT_DOOR,
    ClientDoor,
    addresses_of,
    check_reachable,
    door_of,
)
from amnode.rpc.tls_files import TlsFiles

TLS = TlsFiles(certificate="c", key="k", authority="a")


@pytest.mark.parametrize("address", ["", "unix:/run/x", "memory:x"])
def test_on_one_host_workers_have_sockets_in_a_directory(address: str) -> None:
    assert door_of(address) is DEFAULT_DOOR
    assert DEFAULT_DOOR.told("unix:/x.p") == "unix:/x.p"


@pytest.mark.parametrize(
    ("address", "more", "door", "told"),
    [
        ("tcp:127.0.0.1:7000", {}, ClientDoor("tcp:127.0.0.1:0"), "tcp:127.0.0.1:9"),
        ("tcp:[::1]:0", {}, ClientDoor("tcp:[::1]:0"), "tcp:[::1]:9"),
        ("tcp:localhost:0", {}, ClientDoor("tcp:localhost:0"), "tcp:localhost:9"),
        ("tls:host:7000", {"tls": TLS}, ClientDoor("tls:host:0", tls=TLS), "tls:host:9"),
        (
            "tls:0.0.0.0:7000",
            {"tls": TLS, "advertise_host": "host"},
            ClientDoor("tls:0.0.0.0:0", "host", TLS),
            "tls:host:9",
        ),
        (
            "tcp:[::]:7000",
            {"allow_plaintext": True, "advertise_host": "fe80::1"},
            ClientDoor("tcp:[::]:0", "fe80::1", None, True),
            "tcp:[fe80::1]:9",
        ),
        ("tcp:127.0.0.1:0", {"tls": TLS}, ClientDoor("tcp:127.0.0.1:0"), "tcp:127.0.0.1:9"),
    ],
)
def test_on_a_network_they_listen_where_their_supervisor_does(
    address: str, more: dict[str, Any], door: ClientDoor, told: str
) -> None:
    found = door_of(address, **more)
    assert found == door
    assert found.told(door.address[:-1] + "9") == told


@pytest.mark.parametrize(
    ("address", "more", "words"),
    [
        ("tcp:10.0.0.1:7000", {}, "allow_plaintext=True"),
        ("tcp:host:7000", {}, "allow_plaintext=True"),
        ("tcp:0.0.0.0:7000", {"allow_plaintext": True}, "advertise_host"),
        ("tls:[::]:7000", {"tls": TLS}, "advertise_host"),
        ("tls:[::]:7000", {"tls": TLS, "advertise_host": "0.0.0.0"}, "nowhere"),
        ("tls:[::]:7000", {"tls": TLS, "advertise_host": "a b"}, "cannot be a host"),
        ("tls:host:7000", {}, "certificate"),
        ("tls:host:7000", {"tls": TlsFiles(authority="a")}, "certificate"),
        ("", {"advertise_host": "host"}, "on no network"),
        ("nonsense", {}, "no address"),
    ],
)
def test_what_cannot_work_or_would_be_open_is_refused(
    address: str, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        door_of(address, **more)


@pytest.mark.parametrize(
    ("address", "tls", "words"),
    [
        ("tls:host:7000", None, "TlsFiles"),
        ("tls:host:0", TlsFiles(), "nowhere"),
        ("tcp:0.0.0.0:7000", None, "nowhere"),
        ("what", None, "no address"),
    ],
)
def test_what_cannot_be_connected_to_is_said(
    address: str, tls: TlsFiles | None, words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        check_reachable(address, tls)


@pytest.mark.parametrize("address", ["unix:/x", "tcp:host:1", "tls:host:1"])
def test_what_can_be_connected_to_is(address: str) -> None:
    check_reachable(address, TlsFiles())


def test_files_that_nothing_uses_are_an_error() -> None:
    assert addresses_of("", "tls:host:1", [], tls=TLS).tls is TLS
    with pytest.raises(OptionError, match="nothing uses it"):
        addresses_of("tcp:127.0.0.1:0", "", [], tls=TLS)


def test_peers_are_checked_and_each_is_asked_once() -> None:
    found = addresses_of("", "unix:/l", ["unix:/a", "unix:/b", "unix:/a"])
    assert found.peers == ("unix:/a", "unix:/b") and found.door is DEFAULT_DOOR
    with pytest.raises(OptionError, match="pass a list"):
        addresses_of("", "", "unix:/a")
    with pytest.raises(OptionError, match="no address"):
        addresses_of("", "", ["nowhere"])
