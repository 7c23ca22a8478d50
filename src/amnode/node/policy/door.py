"""Where clients come in: at a supervisor, and at each of its workers.

A worker listens as its supervisor does: on a Unix socket of their directory, or, where the
supervisor is on a network, at the same host, on any free port, with the same certificate.

1. What others could read along is refused, unless it is allowed in words.
2. A wildcard is no address to connect to, so it is never told to anybody: `advertise_host` is.
"""

from __future__ import annotations

import msgspec

from amnode.errors import OptionError
from amnode.rpc.address import Address, endpoint, is_loopback, parse_address

#: Hosts that stand for all addresses of this machine.
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - they are refused here
_NETWORK = ("tcp", "tls")


class TlsFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What TLS shows and trusts, as files in PEM form; every process reads them for itself.

    Attributes:
        certificate: of this side, with the chain that leads to its authority. A supervisor
            needs one, for its name or `advertise_host`; a client where it is asked for one.
        key: of the certificate, without a passphrase; in the same file by default.
        authority: the certificates of who signs for the other side; those that the system
            trusts, by default.
        mutual: whether a supervisor and its workers serve only who shows a certificate that
            the authority has signed.

    Raises:
        OptionError: `mutual` without `authority`, or a key without a certificate.
    """

    certificate: str = ""
    key: str = ""
    authority: str = ""
    mutual: bool = False

    def __post_init__(self) -> None:
        if self.mutual and not self.authority:
            raise OptionError("TlsFiles(mutual=True) needs an authority that signs for clients.")
        if self.key and not self.certificate:
            raise OptionError("TlsFiles has a key and no certificate for it.")


class Door(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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


def door_of(
    public_addr: str,
    *,
    advertise_host: str = "",
    tls: TlsFiles | None = None,
    allow_plaintext: bool = False,
) -> Door:
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
        return Door()
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
    return Door(address, advertise_host, shown, allow_plaintext)


def _is_here(host: str) -> bool:
    return host == "localhost" or is_loopback(host)
