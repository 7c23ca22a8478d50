from __future__ import annotations

import msgspec
import pytest

from amnode.errors import AuthError, OptionError, ProtocolError, RefusedError
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.auth import Ticket
from amnode.rpc.protocol.handshake import (
    ClientHandshake,
    KeyOf,
    ServerHandshake,
    check_identity,
)
from amnode.rpc.protocol.wire import Role

SECRET, DECOY = b"secret", b"d" * 32
TICKET = Ticket(b"i" * 16, b"k" * 32)


def client(*, secret: bytes = SECRET, resume: Ticket | None = None) -> ClientHandshake:
    return ClientHandshake(
        "rc-me", Role.CONTROLLER, secret, b"c" * 32, keepalive=300, resume=resume
    )


def server(
    *, secret: bytes | None = SECRET, refuse: str | None = None, key_of: KeyOf | None = None
) -> ServerHandshake:
    return ServerHandshake(
        "rs-door",
        b"s" * 32,
        DECOY,
        lambda _id, _role: secret,
        lambda _id, _role: refuse,
        key_of=key_of,
        keepalive=200,
    )


def shake(one: ClientHandshake, other: ServerHandshake) -> None:
    one.welcomed(other.proved(one.challenged(other.greeted(one.hello()))))


def key_of(session: bytes, client_id: str, role: Role) -> bytes | None:
    known = (session, client_id, role) == (TICKET.session, "rc-me", Role.CONTROLLER)
    return TICKET.key if known else None


def test_both_sides_get_the_same_ticket_and_interval() -> None:
    one, other = client(), server()
    assert one.ticket is None and other.ticket is None
    shake(one, other)
    assert one.ticket == other.ticket is not None
    assert len(one.ticket.session) == 16 and len(one.ticket.key) == 32
    assert one.keepalive == other.keepalive == 200
    assert not one.resumed and not other.resumed


def test_a_session_that_is_there_is_resumed_by_its_key_alone() -> None:
    one, other = client(secret=b"forgotten", resume=TICKET), server(secret=None, key_of=key_of)
    shake(one, other)
    assert one.ticket is TICKET and other.ticket == TICKET
    assert one.resumed and other.resumed


@pytest.mark.parametrize("look", [None, lambda *_: None])
def test_a_session_that_is_gone_begins_anew_with_the_secret(look: KeyOf | None) -> None:
    one, other = client(resume=TICKET), server(key_of=look)
    shake(one, other)
    assert one.ticket == other.ticket != TICKET
    assert not one.resumed and not other.resumed


def test_a_client_that_asks_for_no_session_is_not_looked_up() -> None:
    def never(*_: object) -> bytes | None:
        raise AssertionError("looked up")

    shake(client(), server(key_of=never))


@pytest.mark.parametrize("key", [b"x" * 32, SECRET])
def test_a_wrong_key_does_not_resume(key: bytes) -> None:
    one = client(resume=Ticket(TICKET.session, key))
    with pytest.raises(AuthError):
        shake(one, server(key_of=key_of))
    assert one.ticket is None


@pytest.mark.parametrize("secret", [None, b"", b"other", DECOY])
def test_a_client_that_does_not_know_the_secret_does_not_pass(secret: bytes | None) -> None:
    with pytest.raises(AuthError):
        shake(client(secret=DECOY if secret != DECOY else b"other"), server(secret=secret))


def test_nothing_is_proved_before_it_is_asked_for() -> None:
    with pytest.raises(AuthError):
        server().proved(wire.Proof(b"p" * 32))
    with pytest.raises(AuthError):
        client().welcomed(wire.Welcome(b"p" * 32))


def test_a_server_that_does_not_know_the_secret_is_found_out() -> None:
    one, other = client(), server(secret=b"other")
    one.challenged(other.greeted(one.hello()))
    with pytest.raises(AuthError):
        one.welcomed(wire.Welcome(b"p" * 32))
    assert one.ticket is None


def test_who_is_not_admitted_gets_the_reason_and_no_session() -> None:
    other = server(refuse="full")
    with pytest.raises(RefusedError, match=r"^full$"):
        shake(client(), other)
    assert other.ticket is None


@pytest.mark.parametrize("version", [0, wire.VERSION - 1, wire.VERSION + 1])
def test_another_version_is_refused_by_both_sides(version: int) -> None:
    replace = msgspec.structs.replace
    with pytest.raises(RefusedError, match=f"version {version}"):
        server().greeted(replace(client().hello(), version=version))
    challenge = server().greeted(client().hello())
    with pytest.raises(RefusedError, match=f"version {version}"):
        client().challenged(replace(challenge, version=version))


def test_a_server_that_resumes_what_was_not_asked_for_is_refused() -> None:
    challenge = wire.Challenge(wire.VERSION, "rs-door", b"s" * 32, True, 0)
    with pytest.raises(ProtocolError, match="nobody asked for"):
        client().challenged(challenge)


def test_ids_are_checked_where_they_are_given() -> None:
    assert check_identity("rc-door ünï") == "rc-door ünï"
    for wrong in ("", "a\nb", "x" * 201):
        with pytest.raises(OptionError):
            check_identity(wrong)
