"""Which files have what TLS shows and trusts."""

from __future__ import annotations

import msgspec

from amnode.errors import OptionError


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
            raise OptionError(
                "TlsFiles(mutual=True) needs an authority that signs for clients."
            )
        if self.key and not self.certificate:
            raise OptionError("TlsFiles has a key and no certificate for it.")
