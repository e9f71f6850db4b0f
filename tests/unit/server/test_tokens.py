import base64
import dataclasses
import re

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from joserfc import jws
from joserfc.jwk import OKPKey

from poolkeeper_server.services.grants import InvalidGrant, Signer
from poolkeeper_server.services.secrets import SecretKey, Secrets
from poolkeeper_server.services.tokens import (
    CHALLENGE_LIFE,
    InvalidToken,
    SessionIdentity,
    TokenMint,
    admin_digest,
    make_admin_secret,
    session_id,
)

NODE = "estates/acme/nodes/studio-7"
CALLER = SessionIdentity(
    estate="acme", node="studio-7", generation=3, session="0123456789abcdefghijklmnop", pool="west", expires=1_000
)


@pytest.fixture(scope="module")
def held() -> Secrets:
    return Secrets.make()


@pytest.fixture(scope="module")
def mint(held: Secrets) -> TokenMint:
    return TokenMint(held)


def test_a_token_vouches_for_its_session_until_it_expires(mint: TokenMint) -> None:
    token = mint.mint(CALLER)
    assert mint.verify(token, 999) == CALLER
    with pytest.raises(InvalidToken) as caught:
        mint.verify(token, 1_000)
    assert caught.value.expired


def test_a_token_with_any_byte_changed_is_refused(mint: TokenMint) -> None:
    raw = base64.urlsafe_b64decode(mint.mint(CALLER) + "==")
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1
        with pytest.raises(InvalidToken):
            mint.verify(base64.urlsafe_b64encode(changed).decode(), 0)


@pytest.mark.parametrize("token", ["", "x", "pk_abc", "é", "A" * 22, "A" * 30, "=" * 8, "A" * 10_000])
def test_a_token_of_something_else_is_refused(mint: TokenMint, token: str) -> None:
    with pytest.raises(InvalidToken):
        mint.verify(token, 0)


def test_a_token_outlives_a_rotation_and_not_the_removal_of_its_key(held: Secrets) -> None:
    token = TokenMint(held).mint(CALLER)
    newer = SecretKey.make("m")
    rotated = dataclasses.replace(held, mac_keys=(newer, *held.mac_keys))
    assert TokenMint(rotated).verify(token, 0) == CALLER
    with pytest.raises(InvalidToken):
        TokenMint(dataclasses.replace(held, mac_keys=(newer,))).verify(token, 0)


def test_a_challenge_is_good_for_its_node_for_a_minute(mint: TokenMint) -> None:
    challenge = mint.challenge(NODE, 5)
    mint.verify_challenge(challenge, NODE, 5 + CHALLENGE_LIFE - 1)
    with pytest.raises(InvalidToken) as caught:
        mint.verify_challenge(challenge, NODE, 5 + CHALLENGE_LIFE)
    assert caught.value.expired
    with pytest.raises(InvalidToken):
        mint.verify_challenge(challenge, NODE + "0", 5)
    for wrong in (b"", challenge[:-1], challenge + b"0", bytes(len(challenge))):
        with pytest.raises(InvalidToken):
            mint.verify_challenge(wrong, NODE, 5)


def test_the_same_challenge_opens_the_same_session(mint: TokenMint) -> None:
    one, two = mint.challenge(NODE, 5), mint.challenge(NODE, 5)
    assert session_id(one) == session_id(one) != session_id(two)
    assert re.fullmatch(r"[0-9a-v]{26}", session_id(one))
    assert mint.rolling_secret("a") == mint.rolling_secret("a") != mint.rolling_secret("b")


def test_a_session_s_secret_shows_by_itself_whose_it_is(mint: TokenMint) -> None:
    secret = mint.session_secret("s1", node=NODE, epoch=2**32 - 1, generation=7)
    assert len(secret) == 32
    assert secret == mint.session_secret("s1", node=NODE, epoch=2**32 - 1, generation=7)
    assert secret != mint.session_secret("s2", node=NODE, epoch=2**32 - 1, generation=7)
    assert mint.secret_given(secret, node=NODE) == (2**32 - 1, 7)
    wrong = (b"", bytes(32), secret[:-1], secret + b"0", b"0" + secret[1:], mint.rolling_secret("an enrolment"))
    assert [mint.secret_given(one, node=NODE) for one in wrong] == [(0, 0)] * len(wrong)
    assert mint.secret_given(secret, node=NODE + "0") == (0, 0)
    assert TokenMint(Secrets.make()).secret_given(secret, node=NODE) == (0, 0)


def test_digests_depend_on_the_installation(held: Secrets, mint: TokenMint) -> None:
    other = TokenMint(Secrets.make())
    assert mint.code_digest("01234567") == TokenMint(held).code_digest("01234567") != other.code_digest("01234567")
    assert mint.pseudonym(estate="acme", node="", consumer="a") != other.pseudonym(estate="acme", node="", consumer="a")


def test_a_pseudonym_tells_nodes_and_estates_apart(mint: TokenMint) -> None:
    names = {
        mint.pseudonym(estate=estate, node=node, consumer="camera")
        for estate in ("acme", "other")
        for node in ("", "a", "b")
    }
    assert len(names) == 6
    assert all(re.fullmatch(r"[0-9a-f]{16}", name) for name in names)


def test_an_admin_token_is_stored_as_a_digest() -> None:
    made = make_admin_secret()
    assert made.text.startswith("pk_")
    assert made.digest == admin_digest(made.text) != admin_digest(make_admin_secret().text)


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
def test_a_grant_is_a_standard_jws_of_a_published_key(held: Secrets) -> None:
    signer = Signer(held)
    grant = signer.sign_grant({"allocation": "a", "quantity": 2})
    (published,) = signer.published()
    key = OKPKey.import_key(
        {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(published.public_key).rstrip(b"=").decode()}
    )
    verified = jws.deserialize_compact(grant, key, algorithms=["EdDSA"])
    assert verified.headers()["kid"] == published.key_id
    assert verified.payload == b'{"allocation":"a","quantity":2}'
    assert signer.verify_grant(grant) == {"allocation": "a", "quantity": 2}


def test_a_grant_of_somebody_else_is_refused(held: Secrets) -> None:
    signer = Signer(held)
    grant = signer.sign_grant({"quantity": 2})
    for wrong in ("", "a.b.c", grant[:-4] + "AAAA", Signer(Secrets.make()).sign_grant({"quantity": 2}), "é.é.é"):
        with pytest.raises(InvalidGrant):
            signer.verify_grant(wrong)


def test_a_statement_is_signed_under_its_own_heading(held: Secrets) -> None:
    signer = Signer(held)
    signature = signer.sign_statement(b"{}")
    (published,) = signer.published()
    assert signature.key_id == published.key_id
    key = Ed25519PublicKey.from_public_bytes(published.public_key)
    key.verify(signature.signature, b"poolkeeper-statement-v1\0{}")
