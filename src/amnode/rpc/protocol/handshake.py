"""Who are you, which version, which session: the messages before anything else.

    client                                  server
      │ Hello (version, id, role, nonce, ───► │  looks the secret up, or the session
      │        session to resume)             │
      │ ◄───────── Challenge (version, id, nonce, resumed)
      │ Proof ──────────────────────────────► │  verifies, then asks whether to admit
      │ ◄──────────────────────────── Welcome │
    verifies                                  │
      │ Subscribe (schema hash, states) ────► │
      │ ◄────── Synced (schema if other, clock)

Rules:

1. The client proves itself first: who does not know the secret learns nothing by asking.
2. Versions are compared before anything is proved, and are part of the proofs.
3. The client says nothing of its schema before the server has proved itself.
4. A session that the server still has is resumed by a proof of its key, in place of the secret;
   if it is gone, the server says so, and the same connection begins a new one with the secret.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from amnode.errors import AuthError, OptionError, ProtocolError, RefusedError
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.auth import (
    REFUSAL,
    Prover,
    Ticket,
    Transcript,
    prove,
    ticket,
    verify,
)
from amnode.rpc.protocol.keepalive import agreed
from amnode.rpc.protocol.wire import Role

#: The secret of a client in a role, or None if it is not known here.
SecretOf: TypeAlias = Callable[[str, str], bytes | None]
#: Asked once a client has proved itself: None admits it, a text is why not.
Admit: TypeAlias = Callable[[str, Role], str | None]
#: The key of a session: its id, the client's id and its role; None if it is not here.
KeyOf: TypeAlias = Callable[[bytes, str, Role], bytes | None]


class ClientHandshake:
    """The client's side, one step a message.

    Args:
        client_id: who this is.
        role: what it wants to do.
        secret: what it shares with the server.
        nonce: 32 fresh bytes.
        keepalive: the interval that it wants, in milliseconds; 0 for none.
        resume: the session to resume, if there is one.

    Attributes:
        ticket: of the session that this connection belongs to, once the server is verified.
        resumed: whether that is the one which was to be resumed.
        keepalive: the interval that was agreed, in milliseconds.
    """

    def __init__(
        self,
        client_id: str,
        role: Role,
        secret: bytes,
        nonce: bytes,
        *,
        keepalive: int = 0,
        resume: Ticket | None = None,
    ) -> None:
        session = b"" if resume is None else resume.session
        self._hello = wire.Hello(wire.VERSION, client_id, role, nonce, session, keepalive)
        self._secret = secret
        self._resume = resume
        self._key = secret
        self._transcript: Transcript | None = None
        self.ticket: Ticket | None = None
        self.resumed = False
        self.keepalive = keepalive

    def hello(self) -> wire.Hello:
        """The first message."""
        return self._hello

    def challenged(self, message: wire.Challenge) -> wire.Proof:
        """The answer to the server's challenge.

        Raises:
            RefusedError: it speaks another version (rule 2).
            ProtocolError: it resumes a session that it was not asked for.
        """
        _check_version(message.version)
        if message.resumed:
            if self._resume is None:
                raise ProtocolError("The server resumes a session that nobody asked for.")
            self._key = self._resume.key
        self.resumed = message.resumed
        self.keepalive = agreed(self._hello.keepalive, message.keepalive)
        self._transcript = transcript = _transcript(self._hello, message)
        return wire.Proof(prove(Prover.CLIENT, self._key, transcript))

    def welcomed(self, message: wire.Welcome) -> None:
        """Checks the server's proof.

        Raises:
            AuthError: it does not know the secret.
        """
        transcript = self._transcript
        if transcript is None or not verify(
            message.proof, Prover.SERVER, self._key, self._key, transcript
        ):
            raise AuthError(REFUSAL)
        self.ticket = self._resume if self.resumed else ticket(self._secret, transcript)


class ServerHandshake:
    """The server's side, one step a message.

    Args:
        server_id: who this is.
        nonce: 32 fresh bytes.
        decoy: 32 bytes that nobody knows, for clients that are not known.
        secret_of: looks a client's secret up, at its hello.
        admit: asked once the client has proved itself.
        key_of: looks the key of a session up (its id, the client, its role); by default there
            is none to resume.
        keepalive: the interval that the server wants, in milliseconds; 0 for none.

    Attributes:
        ticket: of the session that this connection belongs to, once the client is admitted.
        resumed: whether that is one that there was before.
        keepalive: the interval that was agreed, in milliseconds.
    """

    def __init__(
        self,
        server_id: str,
        nonce: bytes,
        decoy: bytes,
        secret_of: SecretOf,
        admit: Admit,
        *,
        key_of: KeyOf | None = None,
        keepalive: int = 0,
    ) -> None:
        self._challenge = wire.Challenge(wire.VERSION, server_id, nonce, False, keepalive)
        self._decoy = decoy
        self._secret_of = secret_of
        self._admit = admit
        self._key_of = key_of
        self._secret: bytes | None = None
        self._transcript: Transcript | None = None
        self.ticket: Ticket | None = None
        self.resumed = False
        self.keepalive = keepalive

    def forgo_keepalive(self) -> None:
        """The connection is one that tells of its end: to be called before the hello."""
        self._challenge = msgspec.structs.replace(self._challenge, keepalive=0)

    def greeted(self, message: wire.Hello) -> wire.Challenge:
        """The answer to a client's hello; the same for a client that is not known.

        Raises:
            RefusedError: it speaks another version (rule 2).
        """
        _check_version(message.version)
        key = None
        if message.session and self._key_of is not None:
            key = self._key_of(message.session, message.client_id, message.role)
        challenge = self._challenge
        if key is None:
            self._secret = self._secret_of(message.client_id, message.role.value)
        else:
            self.resumed = True
            self._secret = key
            self.ticket = Ticket(message.session, key)
            challenge = msgspec.structs.replace(challenge, resumed=True)
        self.keepalive = agreed(message.keepalive, challenge.keepalive)
        self._transcript = _transcript(message, challenge)
        return challenge

    def proved(self, message: wire.Proof) -> wire.Welcome:
        """The answer to a client's proof (rule 1).

        Raises:
            AuthError: it does not know the secret, or nobody has one for it.
            RefusedError: it is not admitted; the message is the reason.
        """
        transcript = self._transcript
        if transcript is None or not verify(
            message.proof, Prover.CLIENT, self._secret, self._decoy, transcript
        ):
            raise AuthError(REFUSAL)
        reason = self._admit(transcript.client_id, transcript.role)
        if reason is not None:
            raise RefusedError(reason)
        secret = self._secret or self._decoy
        if self.ticket is None:
            self.ticket = ticket(secret, transcript)
        return wire.Welcome(prove(Prover.SERVER, secret, transcript))


def _transcript(hello: wire.Hello, challenge: wire.Challenge) -> Transcript:
    return Transcript(
        wire.VERSION,
        hello.role,
        hello.client_id,
        challenge.server_id,
        hello.nonce,
        challenge.nonce,
        hello.session,
        challenge.resumed,
        (hello.keepalive, challenge.keepalive),
    )


def check_identity(text: str) -> str:
    """Returns an id that may stand in a handshake.

    Raises:
        OptionError: it is empty, longer than 200 characters, or has control characters.
    """
    try:
        return msgspec.convert(text, wire.Identity)
    except msgspec.ValidationError as error:
        raise OptionError(f"{text!r} is no id for a connection: {error}.") from None


def _check_version(version: int) -> None:
    if version != wire.VERSION:
        raise RefusedError(
            f"The peer speaks version {version} of the protocol, this side {wire.VERSION}."
        )
