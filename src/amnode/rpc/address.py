"""Addresses: what may follow each scheme.

    unix:PATH        a Unix stream socket
    memory:NAME      two ends in one event loop
    tcp:HOST:PORT    TCP, unencrypted
    tls:HOST:PORT    TLS over TCP

HOST is a name, an IPv4 address, or an IPv6 address in brackets: `tcp:[::1]:7000`.
"""

from __future__ import annotations

import msgspec

from amnode.errors import OptionError

_MAX_PORT = 65_535
#: The longest host name there is, and the longest part between two dots of one.
_MAX_HOST, _MAX_LABEL = 253, 63
#: What a host has none of: it would be an URL, a list, a pattern, or a forged line in a log.
_NOT_IN_HOST = frozenset("/\\@,;*?#[]'\"`<> ")
_FORMS = "unix:/path/to.sock, memory:name, tcp:HOST:PORT or tls:HOST:PORT"


class Address(msgspec.Struct, frozen=True):
    """An address, taken apart.

    Attributes:
        scheme: "unix", "memory", "tcp" or "tls".
        name: the path, the name, or the host without brackets.
        port: of "tcp" and "tls"; 0 when any free one is to be listened on.
    """

    scheme: str
    name: str
    port: int = 0

    def __str__(self) -> str:
        if self.scheme in ("unix", "memory"):
            return f"{self.scheme}:{self.name}"
        return f"{self.scheme}:{endpoint(self.name, self.port)}"


def parse_address(text: str) -> Address:
    """Takes an address apart.

    Raises:
        OptionError: it is none.
    """
    scheme, colon, rest = text.partition(":")
    if scheme not in ("unix", "memory", "tcp", "tls") or not colon or not rest:
        raise OptionError(f"{text!r} is no address; use {_FORMS}.")
    if scheme in ("unix", "memory"):
        return Address(scheme, rest)
    host, colon, port = rest.rpartition(":")
    if not colon or not host:
        raise OptionError(f"{text!r} is no address; use {scheme}:HOST:PORT.")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= _MAX_PORT):
        raise OptionError(f"{text!r} is no address: its port is not within 0 to {_MAX_PORT}.")
    return Address(scheme, _host(text, host), int(port))


def _host(text: str, host: str) -> str:
    bracketed = host[0] == "[" and host[-1] == "]"
    name = host[1:-1] if bracketed else host
    if bracketed != (":" in name):
        raise OptionError(
            f"{text!r} is no address; an IPv6 address, and nothing else, is in brackets: "
            "tcp:[::1]:7000."
        )
    if not _can_be_host(name):
        raise OptionError(f"{text!r} is no address: {name!r} cannot be a host.")
    return name


def _can_be_host(name: str) -> bool:
    return (
        len(name) <= _MAX_HOST
        and name.isascii()
        and name.isprintable()
        and _NOT_IN_HOST.isdisjoint(name)
        and all(0 < len(label) <= _MAX_LABEL for label in name.removesuffix(".").split("."))
    )


def endpoint(host: str, port: int) -> str:
    """Host and port as text, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(ip: str) -> bool:
    """Whether an IP address, as systems write it, is reached from this host only."""
    return ip == "::1" or ip.removeprefix("::ffff:").startswith("127.")


def plain(text: str) -> str:
    """Text for a message: what could forge a line or steer a terminal is escaped."""
    return text if text.isprintable() else ascii(text)[1:-1]
