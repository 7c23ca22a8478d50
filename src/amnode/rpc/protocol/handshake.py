"""Who are you, which version, which schema: the messages before the first mutation.

    client                                  server
      │ Hello (version, id, role, nonce) ─────► │  looks the secret up
      │ ◄───────── Challenge (version, id, nonce)
      │ Proof ────────────────────────────────► │  verifies, then asks whether to admit
      │ ◄────────────────────────────── Welcome │
    verifies                                    │
      │ Subscribe (schema hash, states) ──────► │
      │ ◄─────── Synced (schema if other, clock)│
    compares schemas                            │

Rules:

1. The client proves itself first: who does not know the secret learns nothing by asking.
2. Versions are compared before anything is proved, and are part of the proofs.
3. The client says nothing of its schema before the server has proved itself.
4. A client that has a schema accepts a source only if every state that it names exists there
   identically; tags are not compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from amnode.errors import AuthError, OptionError, ProtocolError, RefusedError, SchemaError
from amnode.machine.schema import Relations, Schema, State
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.auth import REFUSAL, Prover, Transcript, prove, verify
from amnode.rpc.protocol.wire import Role

#: The secret of a client in a role, or None if it is not known here.
SecretOf: TypeAlias = Callable[[str, str], bytes | None]
#: Asked once a client has proved itself: None admits it, a text is why not.
Admit: TypeAlias = Callable[[str, Role], str | None]


class ClientHandshake:
    """The client's side, one step a message.

    Args:
        client_id: who this is.
        role: what it wants to do.
        secret: what it shares with the server.
        nonce: 32 fresh bytes.
    """

    def __init__(self, client_id: str, role: Role, secret: bytes, nonce: bytes) -> None:
        self._secret = secret
        self._hello = wire.Hello(wire.VERSION, client_id, role, nonce)
        self._transcript: Transcript | None = None

    def hello(self) -> wire.Hello:
        """The first message."""
        return self._hello

    def challenged(self, message: wire.Challenge) -> wire.Proof:
        """The answer to the server's challenge.

        Raises:
            RefusedError: it speaks another version (rule 2).
        """
        _check_version(message.version)
        hello = self._hello
        transcript = Transcript(
            wire.VERSION,
            hello.role,
            hello.client_id,
            message.server_id,
            hello.nonce,
            message.nonce,
        )
        self._transcript = transcript
        return wire.Proof(prove(Prover.CLIENT, self._secret, transcript))

    def welcomed(self, message: wire.Welcome) -> None:
        """Checks the server's proof.

        Raises:
            AuthError: it does not know the secret.
        """
        if self._transcript is None or not verify(
            message.proof, Prover.SERVER, self._secret, self._secret, self._transcript
        ):
            raise AuthError(REFUSAL)


class ServerHandshake:
    """The server's side, one step a message.

    Args:
        server_id: who this is.
        nonce: 32 fresh bytes.
        decoy: 32 bytes that nobody knows, for clients that are not known.
        secret_of: looks a client's secret up, at its hello.
        admit: asked once the client has proved itself.
    """

    def __init__(
        self, server_id: str, nonce: bytes, decoy: bytes, secret_of: SecretOf, admit: Admit
    ) -> None:
        self._challenge = wire.Challenge(wire.VERSION, server_id, nonce)
        self._decoy = decoy
        self._secret_of = secret_of
        self._admit = admit
        self._secret: bytes | None = None
        self._transcript: Transcript | None = None

    def greeted(self, message: wire.Hello) -> wire.Challenge:
        """The answer to a client's hello; the same for a client that is not known.

        Raises:
            RefusedError: it speaks another version (rule 2).
        """
        _check_version(message.version)
        self._secret = self._secret_of(message.client_id, message.role.value)
        self._transcript = Transcript(
            wire.VERSION,
            message.role,
            message.client_id,
            self._challenge.server_id,
            message.nonce,
            self._challenge.nonce,
        )
        return self._challenge

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
        return wire.Welcome(prove(Prover.SERVER, self._secret or self._decoy, transcript))


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


# -- schemas ---------------------------------------------------------------------------


def schema_to_wire(schema: Schema) -> list[wire.SchemaState]:
    """A schema as it crosses."""
    return [
        wire.SchemaState(
            name,
            state.auto | state.multi << 1,
            list(state.require),
            list(state.add),
            list(state.remove),
            list(state.after),
            list(state.tags),
        )
        for name, state in schema.items()
    ]


def schema_from_wire(states: Sequence[wire.SchemaState]) -> Schema:
    """The schema that crossed.

    Raises:
        ProtocolError: it is none.
    """
    names = [state.name for state in states]
    try:
        return Schema(
            {
                s.name: State(
                    bool(s.flags & 1),
                    bool(s.flags & 2),
                    s.require,
                    s.add,
                    s.remove,
                    s.after,
                    s.tags,
                )
                for s in states
            },
            names,
        )
    except SchemaError as error:
        raise ProtocolError(f"The schema that the source sent is none: {error}") from None


def schema_hash(schema: Schema) -> bytes:
    """32 bytes that two schemas share only if they are the same, order included, tags not."""
    rows = [
        (name, s.auto, s.multi, s.require, s.add, s.remove, s.after)
        for name, s in schema.items()
    ]
    return hashlib.sha256(msgspec.msgpack.encode(rows)).digest()


def check_schema(wanted: Schema, source: Schema) -> None:
    """Checks that all of `wanted` exists in `source`, identically (rule 4).

    Raises:
        SchemaError: with the states that are missing or differ, and in what.
    """
    faults = [
        fault for name, mine in wanted.items() if (fault := _schema_fault(name, mine, source))
    ]
    if faults:
        shown = "; ".join(faults[:5]) + ("; and more" if len(faults) > 5 else "")
        raise SchemaError(
            f"The source does not have the states that this client names: {shown}."
        )


def _schema_fault(name: str, mine: Relations, source: Schema) -> str:
    if name not in source.names:
        return f"{name} is missing"
    theirs = source[name]
    kinds = ("auto", "multi", "require", "add", "remove", "after")
    differing = [kind for kind in kinds if getattr(mine, kind) != getattr(theirs, kind)]
    return f"{name} differs in {', '.join(differing)}" if differing else ""


def selection(schema: Schema, states: Sequence[str] | None) -> tuple[int, ...] | None:
    """The indexes of a subscription, ascending; None for all.

    Raises:
        StateUnknownError: the source has no such state.
    """
    if states is None:
        return None
    return tuple(sorted({schema.index(name): None for name in states}))
