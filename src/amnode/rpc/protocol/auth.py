"""Proofs that a peer knows the secret, and their checks.

Each side proves it by an HMAC-SHA-256, keyed with the secret, over everything that was said
before: who proves, the protocol version, the role, both ids, both nonces, and which session is
resumed. So

1. the secret never crosses, and a proof says nothing about it;
2. a proof of one connection is worth nothing in another: both nonces are fresh;
3. a proof sent back to its maker (reflection) does not check out: it says who proves;
4. nobody in between can change version, role, ids or nonces unnoticed;
5. an unknown client costs the same work as a wrong secret, and gets the same text.

A session has a key of its own, made of the secret and of both nonces of its first connection;
whoever resumes it proves that key in place of the secret (promise S4). Its id is made of the
key, so that it opens nothing.

This is the only file that compares secrets.
"""

from __future__ import annotations

import hmac
from enum import Enum
from typing import Final

import msgspec

from amnode.rpc.protocol.wire import Role

#: The one text for all of: unknown client, wrong secret, changed handshake (rule 5).
REFUSAL: Final = "The proof of the handshake did not check out: another secret, or another id."


class Prover(Enum):
    """Who proves; part of the proof (rule 3)."""

    CLIENT = b"amnode-rpc client proof"
    SERVER = b"amnode-rpc server proof"


class Transcript(msgspec.Struct, frozen=True):
    """What both sides said before they prove anything."""

    version: int
    role: Role
    client_id: str
    server_id: str
    client_nonce: bytes
    server_nonce: bytes
    session: bytes = b""
    resumed: bool = False
    keepalives: tuple[int, int] = (0, 0)

    def to_bytes(self) -> bytes:
        """The transcript as bytes; no two differ in fields and agree in bytes."""
        fields = (
            str(self.version).encode(),
            self.role.value.encode(),
            self.client_id.encode(),
            self.server_id.encode(),
            self.client_nonce,
            self.server_nonce,
            self.session,
            b"resumed" if self.resumed else b"",
            *(str(keepalive).encode() for keepalive in self.keepalives),
        )
        return b"".join(len(field).to_bytes(2, "little") + field for field in fields)


def prove(prover: Prover, secret: bytes, transcript: Transcript) -> bytes:
    """The 32 bytes by which `prover` shows that it knows the secret."""
    return hmac.digest(secret, prover.value + transcript.to_bytes(), "sha256")


class Ticket(msgspec.Struct, frozen=True):
    """What resumes a session: its id, and its key, which is a secret."""

    session: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"Ticket({self.session.hex()})"


def ticket(secret: bytes, transcript: Transcript) -> Ticket:
    """The id and the key of the session that begins with this connection."""
    key = hmac.digest(secret, b"amnode-rpc session key" + transcript.to_bytes(), "sha256")
    return Ticket(hmac.digest(key, b"amnode-rpc session id", "sha256")[:16], key)


def verify(
    proof: bytes, prover: Prover, secret: bytes | None, decoy: bytes, transcript: Transcript
) -> bool:
    """Whether `proof` is right; takes as long when there is no secret at all (rule 5).

    Args:
        proof: what the peer sent.
        prover: who the peer is.
        secret: what it should know; None or empty if it is not known here, and nothing passes.
        decoy: a secret that nobody knows, for that case.
        transcript: what was said on this connection.
    """
    expected = prove(prover, secret or decoy, transcript)
    matches = hmac.compare_digest(proof, expected)
    return matches and bool(secret)
