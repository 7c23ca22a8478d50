from __future__ import annotations

import hmac
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from amnode.rpc.protocol.auth import Prover, Ticket, Transcript, prove, ticket, verify
from amnode.rpc.protocol.wire import Role

SECRET, DECOY = b"secret", b"decoy" * 6
SAID = Transcript(1, Role.CONTROLLER, "client", "server", b"c" * 32, b"s" * 32)


def test_a_proof_is_the_hmac_that_the_docs_describe() -> None:
    def field(data: bytes) -> bytes:
        return len(data).to_bytes(2, "little") + data

    said = (
        *(b"1", b"controller", b"client", b"server", b"c" * 32, b"s" * 32),
        *(b"", b"", b"0", b"0"),  # no session, not resumed, no keep-alive
    )
    message = b"amnode-rpc client proof" + b"".join(map(field, said))
    assert prove(Prover.CLIENT, SECRET, SAID) == hmac.new(SECRET, message, "sha256").digest()


def test_the_right_proof_passes_and_a_wrong_secret_does_not() -> None:
    proof = prove(Prover.CLIENT, SECRET, SAID)
    assert verify(proof, Prover.CLIENT, SECRET, DECOY, SAID)
    assert not verify(proof, Prover.CLIENT, b"other", DECOY, SAID)


def test_nothing_passes_without_a_secret_not_even_the_decoy() -> None:
    for secret in (None, b""):
        proof = prove(Prover.CLIENT, DECOY, SAID)
        assert not verify(proof, Prover.CLIENT, secret, DECOY, SAID)


def test_a_reflected_proof_does_not_pass() -> None:
    assert not verify(prove(Prover.CLIENT, SECRET, SAID), Prover.SERVER, SECRET, DECOY, SAID)


def test_every_field_of_the_transcript_is_covered() -> None:
    proof = prove(Prover.CLIENT, SECRET, SAID)
    for other in (
        replace(SAID, version=2),
        replace(SAID, role=Role.OBSERVER),
        replace(SAID, client_id="client2"),
        replace(SAID, server_id="server2"),
        replace(SAID, client_nonce=b"C" * 32),
        replace(SAID, server_nonce=b"S" * 32),
        replace(SAID, session=b"i" * 16),
        replace(SAID, resumed=True),
        replace(SAID, keepalives=(1, 0)),
        replace(SAID, keepalives=(0, 1)),
    ):
        assert not verify(proof, Prover.CLIENT, SECRET, DECOY, other)


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_no_two_transcripts_have_the_same_bytes(a: str, b: str, c: str, d: str) -> None:
    one, two = replace(SAID, client_id=a, server_id=b), replace(SAID, client_id=c, server_id=d)
    assert (one.to_bytes() == two.to_bytes()) == ((a, b) == (c, d))


def test_an_unknown_client_costs_the_same_work_as_a_wrong_secret() -> None:
    def work(secret: bytes | None) -> list[int]:
        calls: list[int] = []
        digest, compare = hmac.digest, hmac.compare_digest

        def count_digest(key: bytes, message: bytes, name: str) -> bytes:
            calls.append(len(message))
            return digest(key, message, name)

        def count_compare(a: bytes, b: bytes) -> bool:
            calls.append(len(a) + len(b))
            return compare(a, b)

        with (
            mock.patch.object(hmac, "digest", count_digest),
            mock.patch.object(hmac, "compare_digest", count_compare),
        ):
            assert not verify(b"p" * 32, Prover.CLIENT, secret, DECOY, SAID)
        return calls

    assert work(None) == work(b"wrong") != []


def test_the_ticket_of_a_session_is_made_of_the_secret_and_of_all_that_was_said() -> None:
    one = ticket(SECRET, SAID)
    key = hmac.digest(SECRET, b"amnode-rpc session key" + SAID.to_bytes(), "sha256")
    assert one == Ticket(hmac.digest(key, b"amnode-rpc session id", "sha256")[:16], key)
    others = [
        ticket(b"other", SAID),
        ticket(SECRET, replace(SAID, server_nonce=b"S" * 32)),
        ticket(SECRET, replace(SAID, client_nonce=b"C" * 32)),
    ]
    assert len({t.session for t in (one, *others)}) == len({t.key for t in (one, *others)}) == 4


def test_a_ticket_shows_its_id_and_not_its_key() -> None:
    one = ticket(SECRET, SAID)
    assert repr(one) == str(one) == f"Ticket({one.session.hex()})"


@given(st.binary(max_size=16), st.booleans(), st.integers(0, 99), st.integers(0, 99))
def test_no_two_sessions_or_intervals_have_the_same_bytes(
    session: bytes, resumed: bool, mine: int, theirs: int
) -> None:
    said = replace(SAID, session=session, resumed=resumed, keepalives=(mine, theirs))
    same = (session, resumed, mine, theirs) == (b"", False, 0, 0)
    assert (said.to_bytes() == SAID.to_bytes()) == same
