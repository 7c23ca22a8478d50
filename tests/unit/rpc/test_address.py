"""Addresses: what is one, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.errors import OptionError
from amnode.rpc.address import Address, endpoint, is_loopback, parse_address, plain


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/a:b", Address("unix", "/a:b")),
        ("unix:relative path", Address("unix", "relative path")),
        ("memory:door", Address("memory", "door")),
        ("tcp:127.0.0.1:0", Address("tcp", "127.0.0.1", 0)),
        ("tcp:localhost:65535", Address("tcp", "localhost", 65_535)),
        ("tls:pool.example.org.:7000", Address("tls", "pool.example.org.", 7000)),
        ("tcp:[::1]:7000", Address("tcp", "::1", 7000)),
        ("tls:[fe80::1%eth0]:7000", Address("tls", "fe80::1%eth0", 7000)),
    ],
)
def test_an_address_is_taken_apart_and_put_together(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "unix", "unix:", "memory:", "/tmp/x", "http://host:80", "tcp", "tcp:", "UNIX:/x"],
)
def test_what_has_no_scheme_or_nothing_behind_it_is_none(text: str) -> None:
    with pytest.raises(OptionError, match=r"no address; use unix:.*, memory:.* or tls:"):
        parse_address(text)


@pytest.mark.parametrize("text", ["tcp:7000", "tls:host", "tcp::7000"])
def test_host_and_port_are_both_needed(text: str) -> None:
    with pytest.raises(OptionError, match=r"no address; use t(cp|ls):HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize("port", ["", "x", "-1", "65536", "1e3", " 7", "٣", "000000001"])
def test_a_port_is_a_number_of_16_bits(port: str) -> None:
    with pytest.raises(OptionError, match="port is not within 0 to 65535"):
        parse_address(f"tcp:host:{port}")


@pytest.mark.parametrize("host", ["::1", "[host]", "[127.0.0.1]", "[::1", "fe80::1"])
def test_ipv6_and_nothing_else_is_in_brackets(host: str) -> None:
    with pytest.raises(OptionError, match="brackets"):
        parse_address(f"tcp:{host}:7000")


@pytest.mark.parametrize(
    "host",
    [
        "a b",
        "a\nb",
        "a\x00",
        "a/b",
        "me@host",
        "a..b",
        ".a",
        "bücher",
        "a" * 64,
        "a." * 130,
        "*",
    ],
)
def test_a_host_has_nothing_that_no_host_has(host: str) -> None:
    with pytest.raises(OptionError, match="cannot be a host") as caught:
        parse_address(f"tls:{host}:7000")
    assert str(caught.value).isprintable()


@given(st.text(max_size=20), st.integers(0, 65_535))
def test_what_is_taken_as_a_host_comes_back_as_it_was(host: str, port: int) -> None:
    text = f"tcp:{host}:{port}"
    try:
        address = parse_address(text)
    except OptionError:
        return
    assert str(address) == text
    assert address.name.isascii() and address.name.isprintable()


@pytest.mark.parametrize(
    ("ip", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("1.127.0.1", False),
        ("::ffff:10.0.0.1", False),
    ],
)
def test_loopback_is_what_only_this_host_reaches(ip: str, loopback: bool) -> None:
    assert is_loopback(ip) is loopback


def test_an_endpoint_has_brackets_where_they_are_needed() -> None:
    assert endpoint("::1", 7) == "[::1]:7"
    assert endpoint("127.0.0.1", 7) == "127.0.0.1:7"


def test_text_for_messages_forges_no_line() -> None:
    assert plain("/run/me/düne.sock") == "/run/me/düne.sock"
    assert plain("/a\nERROR \x1b[31m'") == r"/a\nERROR \x1b[31m'"
    assert plain("/\udcff").isprintable()
