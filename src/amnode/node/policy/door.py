"""Where clients come in: at a supervisor, and at each of its workers.

A worker listens as its supervisor does: on a Unix socket of their directory, or, where the
supervisor is on a network, at the same host, on any free port, with the same certificate.

1. What others could read along is refused, unless it is allowed in words.
2. A wildcard is no address to connect to, so it is never told to anybody: `advertise_host` is.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from amnode.errors import OptionError
from amnode.rpc.address import Address, endpoint, is_loopback, parse_address
from amnode.rpc.tls_files import TlsFiles

#: Hosts that stand for all addresses of this machine.
_WILDCARDS = ("0.0.0.0", "::")
_NETWORK = ("tcp", "tls")


class ClientDoor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a worker lets its client in.

    Attributes:
        address: where it listens; "" for a Unix socket in the directory of its supervisor.
        advertise_host: the host that clients are told instead of the one in `address`, or "".
        tls: what it shows; None without TLS.
        allow_plaintext: whether it may be off loopback without TLS.
    """

    address: str = ""
    advertise_host: str = ""
    tls: TlsFiles | None = None
    allow_plaintext: bool = False

    def told(self, listening: str) -> str:
        """The address for clients of one that is listened on (rule 2)."""
        if not self.advertise_host:
            return listening
        at = parse_address(listening)
        return f"{at.scheme}:{endpoint(self.advertise_host, at.port)}"


class Addresses(msgspec.Struct, frozen=True):
    """Where a supervisor is, and whom it asks.

    Attributes:
        public: where clients connect, or "".
        local: where operators and peers connect, or "".
        peers: the local addresses of others.
        tls: what is shown and trusted where one of them begins with `tls:`.
        door: of its workers.
    """

    public: str
    local: str
    peers: tuple[str, ...]
    tls: TlsFiles | None
    door: ClientDoor


#: A Unix socket.
DEFAULT_DOOR = ClientDoor()


def door_of(
    public_addr: str,
    *,
    advertise_host: str = "",
    tls: TlsFiles | None = None,
    allow_plaintext: bool = False,
) -> ClientDoor:
    """The door of the workers of a supervisor that listens at `public_addr`.

    Raises:
        OptionError: the two rules, or what does not go together.
    """
    at = parse_address(public_addr) if public_addr else Address("unix", "")
    if at.scheme not in _NETWORK:
        if advertise_host:
            raise OptionError(
                f"advertise_host is {advertise_host!r}, and public_addr is on no network; pass "
                "one such as tls:HOST:7000."
            )
        return DEFAULT_DOOR
    if at.scheme == "tls" and (tls is None or not tls.certificate):
        raise OptionError(
            f"{public_addr} needs a certificate; pass tls=TlsFiles(certificate=..., key=...)."
        )
    if at.scheme == "tcp" and not (allow_plaintext or _is_here(at.name)):
        raise OptionError(
            f"{public_addr} is not on loopback, and others could read along; use tls: with "
            "tls=TlsFiles(...), or pass allow_plaintext=True."
        )
    if at.name in _WILDCARDS and not advertise_host:
        raise OptionError(
            f"{public_addr} listens on every interface, which is nowhere to connect to; pass "
            "the name or the address that clients know as advertise_host."
        )
    if advertise_host:
        parse_address(f"tcp:{endpoint(advertise_host, 1)}")
        if advertise_host in _WILDCARDS:
            raise OptionError(f"advertise_host is {advertise_host!r}: nowhere to connect to.")
    address = f"{at.scheme}:{endpoint(at.name, 0)}"
    shown = tls if at.scheme == "tls" else None
    return ClientDoor(address, advertise_host, shown, allow_plaintext)


def check_reachable(address: str, tls: TlsFiles | None) -> None:
    """Whether something can be connected to, as far as the address says.

    Raises:
        OptionError: it cannot; says why.
    """
    at = parse_address(address)
    if at.scheme == "tls" and tls is None:
        raise OptionError(
            f"{address} needs TLS; pass tls=TlsFiles(authority=...), or tls=TlsFiles() to "
            "trust whom the system trusts."
        )
    if at.scheme in _NETWORK and (at.name in _WILDCARDS or not at.port):
        raise OptionError(f"{address} is nowhere to connect to; name a host and a port.")


def addresses_of(
    public: str,
    local: str,
    peers: Sequence[str],
    tls: TlsFiles | None = None,
    advertise_host: str = "",
    allow_plaintext: bool = False,
) -> Addresses:
    """The addresses that a supervisor was given.

    Raises:
        OptionError: one that cannot work, or files for TLS that none of them needs.
    """
    if isinstance(peers, str):
        raise OptionError(f"peers is the text {peers!r}; pass a list: [{peers!r}].")
    if tls is not None and not any(at.startswith("tls:") for at in (public, local, *peers)):
        raise OptionError("tls is given, and no address begins with tls:, so nothing uses it.")
    for peer in peers:
        check_reachable(peer, tls)
    door = door_of(
        public, advertise_host=advertise_host, tls=tls, allow_plaintext=allow_plaintext
    )
    return Addresses(public, local, tuple(dict.fromkeys(peers)), tls, door)


def _is_here(host: str) -> bool:
    return host == "localhost" or is_loopback(host)
