"""What the system says of a connection that failed, as errors of the tree."""

from __future__ import annotations

import os

from amnode.errors import AuthError
from amnode.rpc.address import plain


def why(error: Exception) -> str:
    """What the system says; asyncio puts its own words, an address, in its place."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    said = error.strerror if isinstance(error, OSError) else None
    return said or str(error) or "the connection was cut"


def tls_error(peer: str, error: Exception | None) -> Exception | None:
    """An error of TLS as one of the tree, with what to look at; any other as it is."""
    import ssl  # here, since who uses no TLS needs none of it

    if not isinstance(error, ssl.SSLError):
        return error
    why = getattr(error, "verify_message", None) or error.reason or str(error)
    return AuthError(
        f"No TLS with {peer}: {plain(why)}. Compare the certificates of both sides (by whom, "
        "until when, for which host) and their versions of TLS (1.2 at least)."
    )
