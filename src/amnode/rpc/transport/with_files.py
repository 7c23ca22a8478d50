"""The transport of who was given certificates as files, or was allowed to go without."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from amnode.errors import OptionError
from amnode.rpc.tls_files import TlsFiles
from amnode.rpc.transport.by_address import StreamTransport
from amnode.rpc.transport.port import Transport

if TYPE_CHECKING:
    import ssl


def transport_of(
    given: Transport, tls: TlsFiles | None, *, allow_plaintext: bool = False
) -> Transport:
    """A transport that shows and trusts what the files say; the given one where there are none.

    Raises:
        OptionError: a file cannot be used; says which.
    """
    if tls is None and not allow_plaintext:
        return given
    return StreamTransport(
        server_tls=_server(tls) if tls is not None and tls.certificate else None,
        client_tls=_client(tls) if tls is not None else None,
        allow_plaintext=allow_plaintext,
    )


def absolute(tls: TlsFiles | None) -> TlsFiles | None:
    """The same files, for a process that runs elsewhere."""
    if tls is None:
        return None
    paths = {
        name: os.path.abspath(path)  # noqa: PTH100 - workers start without pathlib
        for name in ("certificate", "key", "authority")
        if (path := getattr(tls, name))
    }
    return msgspec.structs.replace(tls, **paths)


def _server(tls: TlsFiles) -> ssl.SSLContext:
    import ssl  # who has no certificate needs it not

    context = _context(ssl.Purpose.CLIENT_AUTH, tls.authority if tls.mutual else "")
    _show(context, tls)
    if tls.mutual:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _client(tls: TlsFiles) -> ssl.SSLContext:
    import ssl

    context = _context(ssl.Purpose.SERVER_AUTH, tls.authority)
    if tls.certificate:
        _show(context, tls)
    return context


def _context(purpose: ssl.Purpose, authority: str) -> ssl.SSLContext:
    import ssl

    try:
        context = ssl.create_default_context(purpose, cafile=authority or None)
    except OSError as error:  # an SSLError is one
        raise OptionError(f"The authority {authority} cannot be used: {error}.") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _show(context: ssl.SSLContext, tls: TlsFiles) -> None:
    def no_passphrase() -> str:
        raise OptionError(f"The key of {tls.certificate} has a passphrase; use one without.")

    try:
        context.load_cert_chain(tls.certificate, tls.key or None, no_passphrase)
    except OSError as error:
        names = " and ".join(filter(None, (tls.certificate, tls.key)))
        raise OptionError(f"The certificate {names} cannot be used: {error}.") from error
